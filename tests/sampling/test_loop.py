from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.errors import InputError
from vqdiff.sampling import Canvas, Frame, SamplingSettings, Trace, sample, samplers


class Denoiser:
    """Logits looked up by token, neighbour, position, time and condition; it remembers its calls."""

    def __init__(self, num_codes: int, conditions: Sequence[int] = (0,)) -> None:
        self.table = 2 * torch.randn(997, num_codes, generator=torch.Generator().manual_seed(0))
        self.conditions = torch.tensor([condition % 100 for condition in conditions])
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        self.calls.append((tokens, t))
        conditions = torch.cat([self.conditions, torch.full_like(self.conditions, 500)])[: len(tokens)]
        positions = torch.arange(tokens.shape[1])
        hashed = 3 * tokens + 5 * tokens.roll(1, 1) + 11 * positions + 17 * t[:, None] + 29 * conditions[:, None]
        return self.table[hashed % 997]


def run(schedule: Schedule, num_tokens: int, seeds: Sequence[int], given: Any, **more: Any) -> list[Frame]:
    conditions = more.pop("conditions", seeds)
    denoise = Denoiser(schedule.num_codes, conditions)
    return list(sample(denoise, schedule, num_tokens=num_tokens, seeds=seeds, settings=given, **more))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_sampler_finishes_for_every_shape(data: st.DataObject) -> None:
    sampler = data.draw(st.sampled_from(list(samplers())))
    num_tokens, num_codes, num_steps = (data.draw(st.integers(1, high)) for high in (40, 6, 30))
    steps = data.draw(st.lists(st.integers(1, num_tokens), min_size=1, max_size=3))
    make = data.draw(st.sampled_from([Schedule.published, Schedule.paper, Schedule.mask_only]))
    schedule = make(num_steps, num_codes)
    trace = Trace.collect(run(schedule, num_tokens, range(len(steps)), [SamplingSettings(sampler, n) for n in steps]))
    assert trace.final.min() >= 0
    assert trace.final.max() < num_codes
    assert (trace.revealed.sum(0) <= 1).all()  # MASK is left once
    assert ((trace.confidence > 0) & (trace.confidence <= 1 + 1e-6)).all()
    if sampler in ("fewer-tokens", "purity", "confidence", "halton"):
        for row, n in enumerate(steps):
            reveals = trace.revealed[:n, row].sum(1)
            assert reveals.sum() == num_tokens
            assert reveals.max() - reveals.min() <= 1


@pytest.mark.parametrize("sampler", samplers())
def test_a_picture_is_the_same_alone_and_in_any_batch(sampler: str) -> None:
    schedule = Schedule.paper(20, 50)
    rows = [
        SamplingSettings(sampler, steps=12, guidance=3.0, truncation=0.9, prior_scale=1.0),
        SamplingSettings(sampler, steps=5, guidance=1.0, truncation=1.0, prior_scale=0.0),
        SamplingSettings(sampler, steps=16, guidance=-0.5, truncation=0.3, prior_scale=2.5),
        SamplingSettings(sampler, steps=1),
    ]
    seeds = [11, 5, 2**63 + 1, -4]
    batch = run(schedule, 16, seeds, rows)[-1].tokens
    assert len(batch.unique(dim=0)) == 4
    for row in range(4):
        alone = run(schedule, 16, seeds[row : row + 1], rows[row])
        assert (alone[-1].tokens[0] == batch[row]).all()


@pytest.mark.parametrize("change", [{"seeds": [2]}, {"conditions": [8]}, {"guidance": 2.0}, {"truncation": 0.2}])
def test_seed_condition_and_settings_matter(change: dict[str, Any]) -> None:
    schedule = Schedule.mask_only(20, 50)
    asked = {"seeds": [1], "conditions": [1], "guidance": 3.0, "truncation": 0.9}

    def tokens(seeds: list[int], conditions: list[int], **rest: Any) -> Tensor:
        return run(schedule, 16, seeds, SamplingSettings(steps=8, **rest), conditions=conditions)[-1].tokens

    assert (tokens(**asked) == tokens(**asked)).all()
    assert (tokens(**asked) != tokens(**asked | change)).any()


@pytest.mark.parametrize("sampler", samplers())
def test_the_loop_never_waits_for_the_device(sampler: str) -> None:
    """On the meta device tensors have no values, so that whatever asks for one fails."""
    asked = [SamplingSettings(sampler, steps=n, truncation=0.9) for n in (4, 9)]
    *_, last = sample(
        lambda tokens, t: torch.zeros(4, 9, 200, device=tokens.device),
        Schedule.paper(10, 200),
        num_tokens=9,
        seeds=[1, 2],
        settings=asked,
        device="meta",
    )
    assert last.tokens.shape == (2, 9)
    for ask in (lambda x: x[0, 0].item(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.cpu()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask(last.tokens)


def test_frames_and_trace_tell_what_happened() -> None:
    schedule = Schedule.mask_only(20, 5)
    frames = run(schedule, 10, [3, 4], [SamplingSettings(steps=5), SamplingSettings(steps=2)])
    assert [(frame.step, frame.steps) for frame in frames] == [(n, 5) for n in range(1, 6)]
    trace = Trace.collect(iter(frames))
    assert (trace.final == frames[-1].tokens).all()
    assert trace.revealed.sum(2).T.tolist() == [[2] * 5, [5, 5, 0, 0, 0]]
    step, confidence = trace.reveal_step(), trace.reveal_confidence()
    for row in range(2):
        for position in range(10):
            n = int(step[row, position])
            assert frames[n - 1].revealed[row, position]
            assert confidence[row, position] == frames[n - 1].confidence[row, position]


def test_the_network_is_called_with_the_planned_times_and_twice_the_rows_only_when_guided() -> None:
    schedule = Schedule.mask_only(20, 5)
    for guidance, num_rows in ((1.0, 2), (2.0, 4)):
        denoise = Denoiser(5, (1, 2))
        asked = [SamplingSettings(steps=4, guidance=1.0), SamplingSettings(steps=1, guidance=guidance)]
        list(sample(denoise, schedule, num_tokens=4, seeds=[0, 1], settings=asked))
        assert [t.tolist()[:2] for _, t in denoise.calls] == [[20, 20], [15, 1], [10, 1], [5, 1]]
        for tokens, t in denoise.calls:
            assert len(tokens) == num_rows
            assert (tokens[:2] == tokens[-2:]).all()
            assert (t[:2] == t[-2:]).all()


@pytest.mark.parametrize("sampler", samplers())
def test_known_tokens_stay(sampler: str) -> None:
    schedule = Schedule.paper(20, 5)
    tokens = torch.arange(12).remainder(5).expand(2, 12).clone()
    tokens[0, 3:6], tokens[1, 1:10] = 5, 5
    known = tokens != 5
    frames = run(schedule, 12, [1, 2], SamplingSettings(sampler, steps=8), canvas=Canvas(tokens, known))
    for frame in frames:
        assert (frame.tokens[known] == tokens[known]).all()
    assert (frames[-1].tokens < 5).all()
    assert ((tokens == 5) == Trace.collect(frames).revealed.any(0)).all()


def test_a_run_can_start_midway() -> None:
    schedule = Schedule.mask_only(20, 5)
    half = torch.full((1, 10), 5)
    half[:, ::2] = 1
    for start, first in ((None, 10), ([7], 7)):
        denoise = Denoiser(5, (1,))
        asked = SamplingSettings("ancestral", steps=1, guidance=1.0)
        list(sample(denoise, schedule, num_tokens=10, seeds=[0], settings=asked, canvas=Canvas(half, start=start)))
        assert [int(t) for _, t in denoise.calls] == list(range(first, 0, -1))


def test_drawn_noise_has_the_masked_share_of_the_last_time() -> None:
    schedule = Schedule.linear(1, 4, alpha_bar=(0.0, 0.0), gamma_bar=(0.7, 0.7))
    denoise = Denoiser(4, range(400))
    asked = SamplingSettings("strided", steps=1, guidance=1.0)
    list(sample(denoise, schedule, num_tokens=100, seeds=range(400), settings=asked))
    share = denoise.calls[0][0].flatten().bincount(minlength=5) / 40_000
    torch.testing.assert_close(share, torch.tensor([0.075] * 4 + [0.7]), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sampler": "puritan"}, "did you mean 'purity'"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"truncation": 0.0}, "truncation is 0"),
        ({"truncation": 1.1}, "truncation is 1.1"),
        ({"truncation": float("nan")}, "truncation is nan"),
        ({"prior_scale": -1.0}, "prior_scale is -1"),
        ({"prior_scale": float("inf")}, "prior_scale is inf"),
    ],
)
def test_settings_are_checked(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SamplingSettings(), **bad)


@pytest.mark.parametrize(
    ("seeds", "asked", "message"),
    [
        ([1], SamplingSettings(steps=5), "steps is 5, more than the 4 tokens"),
        ([1, 2], [SamplingSettings(steps=4)], "2 seeds and 1 settings"),
        ([], SamplingSettings(steps=4), "at least one seed"),
        ([1, 2], [SamplingSettings("purity", 4), SamplingSettings("strided", 4)], "share one sampler"),
    ],
)
def test_bad_calls_fail_at_once(seeds: list[int], asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(Denoiser(3), Schedule.published(9, 3), num_tokens=4, seeds=seeds, settings=asked)


HOLES = torch.full((1, 4), 3)


@pytest.mark.parametrize(
    ("canvas", "message"),
    [
        (Canvas(HOLES[:, :3]), r"tokens of shape \(1, 3\): \(1, 4\) is needed"),
        (Canvas(HOLES.repeat(2, 1)), "tokens of shape"),
        (Canvas(HOLES, start=[10]), r"start is \[10\]: give a time from 0 to 9"),
        (Canvas(HOLES, start=[1, 2]), "start is"),
    ],
)
def test_a_canvas_is_checked(canvas: Canvas, message: str) -> None:
    asked = SamplingSettings(steps=4)
    with pytest.raises(InputError, match=message):
        sample(Denoiser(3), Schedule.published(9, 3), num_tokens=4, seeds=[1], settings=asked, canvas=canvas)
