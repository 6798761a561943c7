"""The loop: learning rate, resume = uninterrupted run, interruption, refusal to overwrite."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator, tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from PIL import Image
from torch import Tensor, nn

from processes import exit_codes, started
from vqdiff.foundation import progress
from vqdiff.foundation.errors import InputError
from vqdiff.training import logger
from vqdiff.training.duration import in_words
from vqdiff.training.loop import RunConfig, make_accelerator, train
from vqdiff.training.validation import Criterion, Validation

RUN = RunConfig(
    steps=12,
    batch_size=4,
    learning_rate=0.05,
    warmup=2,
    ema=0.9,
    log_every=3,
    preview_every=6,
    checkpoint_every=4,
    precision="fp32",
)


STEEP = 100


class Squares(nn.Module):
    """The error of y = 2x."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.model(x)
        kink = (0 * y).abs().sqrt().sum() if x.abs().max() > STEEP else 0  # is 0, and its gradient no number
        return (y - 2 * x).square().mean() + kink, {"weight": self.model.weight.detach()[0, 0]}


class Line:
    """Fit y = 2x, with noise that belongs to the step."""

    trained = False
    compiled = None
    data_fingerprint = "y = 2x"
    learning_rates: Mapping[str, float] = {}
    criterion = Criterion("held_out")
    legend = "weight: the slope"

    def __init__(
        self,
        stop_at: int | None = None,
        number: int = signal.SIGINT,
        nan_at: int | None = None,
        pause: float = 0,
        asked: Path | None = None,
        spoiled: float = torch.nan,
        times: int = 1,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.objective = Squares(self.model)
        self.stop_at, self.number, self.nan_at, self.pause = stop_at, number, nan_at, pause
        self.asked, self.spoiled, self.times = asked, spoiled, times

    def batch(self, step: int, share: slice) -> dict[str, Tensor]:
        if step == self.stop_at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)  # the step at hand is finished before the run stops
                time.sleep(0.01)
        time.sleep(self.pause)
        if self.asked is not None:
            self.asked.with_suffix(".new").write_text(str(step))
            self.asked.with_suffix(".new").replace(self.asked)
        x = torch.randn(4, 1, generator=torch.Generator().manual_seed(step))
        return {"x": (x * self.spoiled if step == self.nan_at else x)[share]}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"held_out": float((model(torch.ones(1)).detach() - 2).abs())}

    def upkeep(self, model: nn.Module) -> tuple[float, float]:
        return 0.0, 0.0

    def preview(self, model: nn.Module, path: Path) -> None:
        path.write_text("a picture", encoding="utf-8")

    def save(self, model: nn.Module, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "finished.pt")


def finished(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "finished.pt", weights_only=True)


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    train(Line, RUN, tmp_path, resume=False)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in records if "held_out" in r] == [6, 12]
    assert {"weight", "pictures_per_s", "learning_rate"} <= records[0].keys()
    assert sorted(path.name for path in tmp_path.glob("preview*")) == ["preview-0000006.png", "preview-0000012.png"]
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert records[-1]["held_out"] < records[2]["held_out"]
    assert Image.open(tmp_path / "curve.png").width > 500


class Overfitting(Line):
    """Held-out data lie on y = x: training towards y = 2x is right for a while only."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"held_out": float((model(torch.ones(1)).detach() - 1).abs())}


EARLY = replace(RUN, steps=200, learning_rate=0.02, validate_every=2, patience=3, checkpoint_every=5, ema=0.0)


def test_a_run_stops_when_held_out_images_no_longer_profit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Overfitting, EARLY, tmp_path / "whole", resume=False)
    scores = {r["step"]: r["held_out"] for r in losses(tmp_path / "whole") if "held_out" in r}
    best = min(scores, key=lambda step: scores[step])
    assert list(scores) == list(range(2, best + 7, 2))
    assert best + 6 < EARLY.steps
    saved = finished(tmp_path / "whole")
    assert float((saved["weight"] + saved["bias"] - 1).abs()) == pytest.approx(scores[best], abs=1e-6)
    assert f"finished at step {best + 6}, with the weights of step {best}" in capsys.readouterr().out

    with pytest.raises(KeyboardInterrupt):  # after the best, before the end
        train(lambda: Overfitting(stop_at=best + 3), EARLY, tmp_path / "broken", resume=False)
    train(Overfitting, EARLY, tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")

    with monkeypatch.context() as patch:
        patch.setattr("vqdiff.training.loop.preflight", None)  # which takes minutes, and there is nothing left to do
        train(Overfitting, replace(EARLY, steps=300), tmp_path / "broken", resume=True)
    assert f"stopped by itself at step {best + 6}: raise run.patience to continue" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    train(Overfitting, replace(EARLY, patience=5), tmp_path / "broken", resume=True)
    assert max(r["step"] for r in losses(tmp_path / "broken")) == best + 10


def test_patience_begins_when_it_is_asked_for(tmp_path: Path) -> None:
    train(Overfitting, replace(EARLY, steps=50, patience=0), tmp_path)  # the best score was long ago
    train(Overfitting, replace(EARLY, steps=200, patience=1), tmp_path, resume=True)
    scores = {r["step"]: r["held_out"] for r in losses(tmp_path) if r["step"] > 50 and "held_out" in r}
    assert scores
    best = min(scores, key=lambda step: scores[step])
    saved = finished(tmp_path)
    assert float((saved["weight"] + saved["bias"] - 1).abs()) == pytest.approx(scores[best], abs=1e-6)


def test_without_patience_the_last_weights_are_saved(tmp_path: Path) -> None:
    train(Overfitting, EARLY, tmp_path)
    train(Overfitting, replace(EARLY, patience=0), tmp_path, resume=True)
    saved, last = finished(tmp_path), torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["step"] == EARLY.steps
    assert all(torch.equal(saved[name.removeprefix("model.")], value) for name, value in last["weights"].items())


def test_a_checkpoint_with_weights_can_be_replaced_while_they_are_in_use(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    model, validation = nn.Linear(1, 1), Validation(Criterion("held_out"), 2)
    validation.note(1, 0.5, model)
    torch.save(validation.state(), file)
    state = torch.load(file, weights_only=True, mmap=True)
    kept = Validation(Criterion("held_out"), 2, state).weights
    assert {value.data_ptr() for value in kept.values()}.isdisjoint(v.data_ptr() for v in state["weights"].values())


@dataclass(frozen=True)
class Measured:
    run: RunConfig
    evaluate: int = 0


def test_scores_of_other_images_are_not_compared(tmp_path: Path) -> None:
    train(Overfitting, EARLY, tmp_path, settings=Measured(EARLY))
    end = max(r["step"] for r in losses(tmp_path))
    train(Line, EARLY, tmp_path, resume=True, settings=Measured(EARLY, evaluate=1))
    assert max(r["step"] for r in losses(tmp_path)) > end


def test_the_whole_time_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Line):
        def upkeep(self, model: nn.Module) -> tuple[float, float]:
            return 300.0, 1800.0

    train(Slow, RUN, tmp_path, resume=False)
    out = capsys.readouterr().out
    assert re.search(r"about 70 minutes in all: .* to prepare, .* to train, 70 minutes for ", out)
    assert "weight: the slope" in out


@pytest.mark.parametrize(
    ("seconds", "words"), [(41.3, "41 s"), (840, "14 minutes"), (8500, "2 h 20 min"), (3e5, "3.5 days")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def losses(folder: Path) -> list[dict[str, float]]:
    """What the log says of every step, but for the speed."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in ("pictures_per_s", "share_of_matmul_peak")}
        for record in records
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    for name, value in finished(one).items():
        assert torch.equal(value, finished(other)[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, number: int) -> None:
    train(Line, RUN, tmp_path / "whole", resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: Line(stop_at=7, number=number), RUN, tmp_path / "broken", resume=False)
    train(Line, RUN, tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("times", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_several_times_equals_uninterrupted(times: int, tmp_path: Path) -> None:
    """SIGKILL at random moments: never a broken checkpoint, never more lost than the interval."""
    steps, folder = 40 * times, tmp_path / "killed"
    run = replace(RUN, steps=steps, checkpoint_every=5, log_every=20, preview_every=steps)
    asked = tmp_path / "asked"
    train(Line, run, tmp_path / "whole", resume=False)
    moments, reached = random.Random(0), 0
    for _ in range(times):
        checkpoint, before = folder / "last.pt", _stamp(folder / "last.pt")
        child = started(train, partial(Line, pause=0.005, asked=asked), run, folder, resume=bool(before))
        while _stamp(checkpoint) == before:  # it has begun to train, however slow the machine
            assert child.is_alive()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        child.join()
        step = torch.load(checkpoint, weights_only=True)["step"]
        assert reached < step < run.steps
        assert step >= int(asked.read_text()) - 2 - run.checkpoint_every  # two batches are made ahead of the step
        reached = step
    train(Line, run, folder, resume=True)
    assert_same_run(tmp_path / "whole", folder)
    assert not list(folder.glob(".vqdiff-*"))  # what was half written when it was killed


def _stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


@pytest.mark.parametrize(
    ("spoiled", "found"),
    [(torch.nan, "'x' of the batch is not finite in 4 of 4 rows: repair"), (1e4, r"the gradient of model\.bias")],
    ids=["data", "gradient"],
)
def test_what_is_no_number_stops_the_run_and_spoils_nothing(tmp_path: Path, spoiled: float, found: str) -> None:
    with pytest.raises(InputError, match=f"not finite at step 9: {found}"):
        train(lambda: Line(nan_at=9, spoiled=spoiled), RUN, tmp_path / "broken", resume=False)
    assert torch.load(tmp_path / "broken" / "broken.pt", weights_only=True)["step"] == 9
    assert torch.load(tmp_path / "broken" / "last.pt", weights_only=True)["step"] == 8
    train(Line, RUN, tmp_path / "whole", resume=False)
    train(Line, RUN, tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_runs_are_not_overwritten_and_not_invented(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(Line, RUN, tmp_path / "none", resume=True)
    train(Line, RUN, tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="--resume"):
        train(Line, RUN, tmp_path / "run", resume=False)


def test_another_kind_of_run_is_not_resumed(tmp_path: Path) -> None:
    train(Line, replace(RUN, ema=0.0), tmp_path, resume=False)
    (tmp_path / "run.json").unlink()  # as of a version that wrote none
    with pytest.raises(InputError, match=r"another network, run\.ema or run\.precision"):
        train(Line, replace(RUN, steps=20), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 8}, "run.batch_size: 4 → 8"),
        ({"ema": 0.0, "log_every": 1}, "run.ema: 0.9 → 0.0;"),
        ({"steps": 11}, "run.steps: 12 → 11 (fewer steps end another run)"),
        ({"seed": 1, "betas": (0.9, 0.9)}, "run.betas: [0.9, 0.99] → [0.9, 0.9]; run.seed: 0 → 1"),
    ],
)
def test_a_run_is_not_resumed_as_another(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    train(Line, RUN, tmp_path, resume=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def make() -> Line:
        raise AssertionError("made before the settings were compared")

    with pytest.raises(InputError) as error:
        train(make, replace(RUN, **changed), tmp_path, resume=True)
    assert str(error.value).startswith("this would not be the same run: ")
    assert words in str(error.value)
    assert "log_every" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    train(Line, RUN, tmp_path, resume=False)

    class Other(Line):
        data_fingerprint = "y = 3x"

    with pytest.raises(InputError, match=r"the data of .* are no longer those .*y = 2x → y = 3x"):
        train(Other, replace(RUN, steps=20), tmp_path, resume=True)


def test_what_may_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Line, RUN, tmp_path, resume=False)
    capsys.readouterr()
    longer = replace(RUN, steps=14, log_every=1, accumulation=2)
    train(Line, longer, tmp_path, resume=True)
    out = capsys.readouterr().out
    for line in "run.steps: 12 → 14", "run.log_every: 3 → 1", "run.accumulation: 1 → 2":
        assert f"changed: {line}\n" in out
    assert "resuming at step 12 of 14; " in out
    train(Line, longer, tmp_path, resume=True)
    assert "changed" not in capsys.readouterr().out


def test_there_is_a_line_every_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Line, replace(RUN, log_every=12, preview_every=12), tmp_path / "quick", resume=False)
    assert "step 5/12" not in capsys.readouterr().out
    monkeypatch.setattr(logger, "LINE_EVERY", 0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.02)

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            cls.now += 0.001
            return cls.now

    class Slow(Line):
        def preview(self, model: nn.Module, path: Path) -> None:
            time.sleep(0.1)
            Clock.now += 1000

    monkeypatch.setattr(logger, "time", Clock)

    train(Slow, replace(RUN, log_every=12, preview_every=5), tmp_path / "slow", resume=False)
    out = capsys.readouterr().out
    assert re.search(r"step 5/12  \S+ images/s  0:00:\d\d left\n", out)
    assert "evaluating: 0 s so far" in out
    rate = json.loads((tmp_path / "slow" / "log.jsonl").read_text().splitlines()[-2])["pictures_per_s"]
    assert rate > 12 * RUN.batch_size / 10  # two previews took 2000 s, which do not count


class Remembering(GeneralTracker):
    """A tracker that remembers what it received."""

    name = "wandb"
    requires_logging_directory = False
    received: ClassVar[list[Any]] = []

    def __init__(self, run_name: str, **settings: Any) -> None:
        super().__init__()
        self.received.append(run_name)

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.received.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **given: Any) -> None:
        self.received.append((step, values))

    def finish(self) -> None:
        self.received.append("finished")


def test_a_tracker_gets_settings_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Remembering)
    available = [*tracking.get_available_trackers(), LoggerType.WANDB]
    monkeypatch.setattr("vqdiff.training.loop.get_available_trackers", lambda: available)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: available)
    monkeypatch.setattr(Remembering, "received", [])
    train(Line, replace(RUN, trackers=("wandb",)), tmp_path / "named", resume=False)
    name, settings, *logged, end = Remembering.received
    assert (name, end) == ("named", "finished")
    assert settings["run.learning_rate"] == RUN.learning_rate
    records = [json.loads(line) for line in (tmp_path / "named" / "log.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in logged] == records


def test_a_tracker_that_does_not_start_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(accelerator: Accelerator, name: str) -> None:
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(Accelerator, "init_trackers", refuse)
    with pytest.raises(InputError, match=r"run\.trackers: no API key configured"):
        train(Line, RUN, tmp_path)


def test_a_second_sigterm_still_saves(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(lambda: Line(stop_at=7, number=signal.SIGTERM, times=2), RUN, tmp_path, resume=False)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] > 4  # the last of the interval


def test_useless_runs_are_refused() -> None:
    with pytest.raises(InputError, match="log_every is 0"):
        replace(RUN, log_every=0)


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    run = replace(RUN, steps=100, learning_rate=1.0, warmup=10, decay=0.2)
    rates = [run.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0


def test_a_half_written_record_is_forgotten(tmp_path: Path) -> None:
    train(Line, RUN, tmp_path / "whole", resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: Line(stop_at=7), RUN, tmp_path / "killed", resume=False)
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    train(Line, RUN, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_accumulated_parts_give_the_whole_batch(tmp_path: Path) -> None:
    for name, parts in ("whole", 1), ("parts", 4):
        train(Line, replace(RUN, accumulation=parts), tmp_path / name, resume=False)
    whole, parts = finished(tmp_path / "whole"), finished(tmp_path / "parts")
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="make it a multiple of 3"):
        train(Line, replace(RUN, accumulation=3), tmp_path / "odd", resume=False)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    with pytest.raises(KeyboardInterrupt):
        train(lambda: Line(stop_at=7), RUN, tmp_path, resume=False)
    before = (tmp_path / "last.pt").read_bytes()
    room = len(before) // 2
    assert exit_codes([started(_resume_in, room, tmp_path)]) == [7]
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp*"))


def _resume_in(room: int, folder: Path) -> None:
    """Go on where files may have no more than so many bytes; ends with 7 where the message names the remedy."""
    import resource  # not on Windows

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        train(Line, RUN, folder, resume=True)
    except InputError as error:
        sys.exit(7 if "make room and --resume" in str(error) else 1)


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wandb is not installed: pip install wandb"):
        train(Line, replace(RUN, trackers=("wandb",)), tmp_path / "run", resume=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("units", "precision"), [(True, "bf16"), (False, "no")])
def test_precision_is_bf16_where_that_is_faster(
    units: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqdiff.training.loop.has_bf16_units", lambda device: units)
    assert make_accelerator(replace(RUN, precision="auto"), tmp_path).mixed_precision == precision
