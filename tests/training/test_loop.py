"""The loop: learning rate, resume = uninterrupted run, interruption, refusal to overwrite."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqdiff.errors import InputError
from vqdiff.training.loop import RunConfig, train

RUN = RunConfig(
    steps=12, batch_size=4, learning_rate=0.05, warmup=2, ema=0.9, log_every=3, preview_every=6, checkpoint_every=4
)


class Line:
    """Fit y = 2x, with noise that belongs to the step."""

    def __init__(
        self, stop_at: int | None = None, number: int = signal.SIGINT, nan_at: int | None = None, pause: float = 0
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.stop_at, self.number, self.nan_at, self.pause = stop_at, number, nan_at, pause

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.stop_at:
            os.kill(os.getpid(), self.number)  # the step is finished before the run stops
        time.sleep(self.pause)
        x = torch.randn(4, 1, generator=torch.Generator().manual_seed(step))
        if step == self.nan_at:
            x = x * torch.nan
        return (self.model(x) - 2 * x).square().mean(), {"weight": self.model.weight.detach()[0, 0]}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"held_out": float((model(torch.ones(1)).detach() - 2).abs())}

    def preview(self, model: nn.Module, path: Path) -> None:
        path.write_text("a picture")

    def save(self, model: nn.Module, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "finished.pt")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == {}


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


def losses(folder: Path) -> list[dict[str, float]]:
    """What the log says of every step, but for the speed."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "pictures_per_s"} for record in records]


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_twenty_times_equals_uninterrupted(tmp_path: Path) -> None:
    """SIGKILL at random moments: never a broken checkpoint, never more lost than the interval."""
    run, folder = replace(RUN, steps=400, checkpoint_every=4), tmp_path / "killed"
    train(Line, run, tmp_path / "whole", resume=False)
    moments, reached = random.Random(0), 0
    for _ in range(20):
        child = os.fork()
        if not child:
            try:
                train(lambda: Line(pause=0.002), run, folder, resume=(folder / "last.pt").exists())
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (folder / "last.pt").exists():
            step = torch.load(folder / "last.pt", weights_only=True)["step"]
            assert step >= reached
            reached = step
            logged = [record["step"] for record in losses(folder)]
            assert max(logged, default=0) <= reached + run.checkpoint_every + run.log_every
    assert reached > 0
    train(Line, run, folder, resume=True)
    assert_same_run(tmp_path / "whole", folder)


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss is nan at step 9: lower run\.learning_rate"):
        train(lambda: Line(nan_at=9), RUN, tmp_path / "broken", resume=False)
    assert torch.load(tmp_path / "broken" / "broken.pt", weights_only=True)["step"] == 9
    train(Line, RUN, tmp_path / "whole", resume=False)
    train(Line, RUN, tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_runs_are_not_overwritten_and_not_invented(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(Line, RUN, tmp_path / "none", resume=True)
    train(Line, RUN, tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="--resume"):
        train(Line, RUN, tmp_path / "run", resume=False)


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
