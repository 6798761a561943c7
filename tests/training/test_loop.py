"""The loop: learning rate, resume = uninterrupted run, interruption, refusal to overwrite."""

from __future__ import annotations

import json
import os
import signal
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

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.stop_at = stop_at

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)  # the step is finished before the run stops
        x = torch.randn(4, 1, generator=torch.Generator().manual_seed(step))
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


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    train(Line, RUN, tmp_path / "whole", resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: Line(stop_at=7), RUN, tmp_path / "broken", resume=False)
    train(Line, RUN, tmp_path / "broken", resume=True)
    for name, value in finished(tmp_path / "whole").items():
        assert torch.equal(value, finished(tmp_path / "broken")[name])


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
