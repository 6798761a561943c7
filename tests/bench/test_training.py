"""Training steps of a tiny denoiser with both losses, in processes of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny_bench import TINY
from vqdiff.bench.programs import Repeat
from vqdiff.bench.report import Report
from vqdiff.bench.training import Program, PublishedLoss, TrainingOptions, VQDiffLoss, bench_training
from vqdiff.denoisers import ClassicConfig
from vqdiff.foundation.errors import InputError


def ignore(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def report() -> Report:
    options = TrainingOptions(codes=40, dtype="float32", device="cpu", steps=3, batches=(2, 3))
    return bench_training("tiny", options, "vqdiff bench training", ignore, TINY.denoiser)


def test_both_losses_are_measured(report: Report) -> None:
    assert report.title == "training tiny of 40 codes, vqdiff float32, log-one-hot float32, cpu"
    assert any(note.startswith("Checked before: losses differ by at most") for note in report.notes)
    assert list(dict.fromkeys(row.work for row in report.rows)) == ["2 images per step", "3 images per step"]
    for work, batch in (("2 images per step", 2), ("3 images per step", 3)):
        steps, rates = (report.find(work, name) for name in ("seconds per step", "images per second"))
        for step, rate in zip(steps.values, rates.values, strict=True):
            assert step.count == 3
            assert rate.median == pytest.approx(batch / step.median)
        for name in ("of the matrix products' peak, %", "noise and loss alone, forward and backward: seconds"):
            assert all(each.median > 0 for each in report.find(work, name).values)
        assert report.find(work, "noise and loss alone, forward and backward: peak memory beyond the logits, MiB")


@pytest.mark.parametrize("make", [VQDiffLoss, PublishedLoss])
def test_a_step_learns(make: type[Program]) -> None:
    program = make(TINY.denoiser, "bfloat16", "cpu")
    before = {name: value.clone() for name, value in program.denoiser.named_parameters()}
    program.train(Repeat(2, 1), lambda: None)
    changed = [name for name, value in program.denoiser.named_parameters() if not torch.equal(value, before[name])]
    assert {"head.weight", "token_embedding.weight"} <= set(changed)
    assert all(value.grad is None for value in program.denoiser.parameters())


def test_noise_is_at_times_of_the_schedule() -> None:
    for make in (VQDiffLoss, PublishedLoss):
        program = make(TINY.denoiser, "float32", "cpu")
        x0, t = program.tokens(9)
        assert t.tolist() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
        xt, _ = program.noise(x0.repeat(1, 50), t)
        masked = (xt == TINY.denoiser.num_codes).double().mean(1)
        assert torch.allclose(masked, program.schedule.gamma_bar[t], atol=0.08)


def test_another_loss_is_another_number() -> None:
    """What the check compares does change with the time and with the tokens."""
    ours, theirs = (make(TINY.denoiser, "float32", "cpu") for make in (VQDiffLoss, PublishedLoss))
    x0, xt, logits = np.zeros((1, 16), np.int64), np.full((1, 16), 30), np.zeros((1, 16, 30), np.float32)
    logits[..., 0] = 1
    early, late, other = ((x0 + code, xt, np.array([t]), logits) for code, t in ((0, 1), (0, 90), (1, 90)))
    for given in (early, late, other):
        assert np.allclose(ours.losses(*given), theirs.losses(*given), rtol=1e-4)
    assert len({float(ours.losses(*given)[0]) for given in (early, late, other)}) == 3


def test_what_has_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="only training of text models"):
        VQDiffLoss(ClassicConfig(30, grid_size=4, width=32, depth=1, heads=2), "float32", "cpu")
