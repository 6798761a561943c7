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
from vqdiff.foundation.errors import InputError
from vqdiff.sampling import Batch, Canvas, Frame, Guidance, SamplingSettings, Trace, get_sampler, sample, samplers

pytestmark = pytest.mark.numeric


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


class TwoStageDenoiser(Denoiser):
    """The same in two parts; it remembers at how many positions of each image its head was evaluated."""

    def __init__(self, num_codes: int, conditions: Sequence[int] = (0,), *, batch_invariant: bool = False) -> None:
        super().__init__(num_codes, conditions)
        self.batch_invariant = batch_invariant
        self.asked: list[int] = []

    def features(self, tokens: Tensor, t: Tensor) -> Tensor:
        return self(tokens, t) / 2

    def logits(self, features: Tensor) -> Tensor:
        self.asked.append(features.shape[1])
        return features * 2


class PartlyGuidedDenoiser(TwoStageDenoiser):
    """The same, asked for the null condition of guided images only; it remembers which these were."""

    def __init__(self, num_codes: int, conditions: Sequence[int] = (0,), *, batch_invariant: bool = False) -> None:
        super().__init__(num_codes, conditions, batch_invariant=batch_invariant)
        self.guided_rows: list[list[int]] = []

    def guided(self, rows: Sequence[int]) -> PartlyGuidedDenoiser:
        self.guided_rows.append(list(rows))
        return self


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
    if sampler not in ("corrected", "renoised"):
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
        SamplingSettings(sampler, steps=16, guidance=-0.5, truncation=0.3, prior_scale=2.5, renoise_loop=0.5),
        SamplingSettings(sampler, steps=1),
    ]
    seeds = [11, 5, 2**63 + 1, -4]
    batch = run(schedule, 16, seeds, rows)[-1].tokens
    assert len(batch.unique(dim=0)) == 4
    for row in range(4):
        alone = run(schedule, 16, seeds[row : row + 1], rows[row])
        assert (alone[-1].tokens[0] == batch[row]).all()


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only, Schedule.published])
@pytest.mark.parametrize("sampler", samplers())
def test_a_head_evaluated_where_it_matters_gives_the_same_tokens(sampler: str, make: Any) -> None:
    schedule, conditions = make(20, 50), (1, 2, 3)
    asked = [SamplingSettings(sampler, n, guidance, truncation=0.9) for n, guidance in ((8, 3.0), (3, 1.0), (36, 2.0))]
    whole, parts = Denoiser(50, conditions), TwoStageDenoiser(50, conditions)
    frames = [
        list(sample(denoise, schedule, num_tokens=36, seeds=[7, 8, 9], settings=asked)) for denoise in (whole, parts)
    ]
    for one, other in zip(*frames, strict=True):
        assert (one.tokens == other.tokens).all()
    if sampler == "corrected":  # its head is evaluated apart for the strides and the corrections of a batch
        assert len(whole.calls) <= len(parts.asked) <= 2 * len(whole.calls)
    else:
        assert len(parts.asked) == len(whole.calls)
    if sampler not in ("posterior-guided", "reference-fewer-tokens", "reference-purity", "token-fixing"):
        assert sum(parts.asked) < 0.8 * 36 * len(parts.asked)
    assert (frames[1][0].confidence == frames[0][0].confidence).all()


@pytest.mark.parametrize("sampler", samplers())
def test_a_head_is_evaluated_for_each_image_where_it_is_for_it_alone(sampler: str) -> None:
    schedule, conditions = Schedule.paper(20, 50), (1, 2, 3)
    asked = [SamplingSettings(sampler, n, guidance, truncation=0.9) for n, guidance in ((8, 3.0), (3, 1.0), (20, 2.0))]
    together = TwoStageDenoiser(50, conditions, batch_invariant=True)
    *_, last = sample(together, schedule, num_tokens=36, seeds=[7, 8, 9], settings=asked)
    alone = [TwoStageDenoiser(50, [condition], batch_invariant=True) for condition in conditions]
    for row, (denoise, one) in enumerate(zip(alone, asked, strict=True)):
        *_, drawn = sample(denoise, schedule, num_tokens=36, seeds=[7 + row], settings=one)
        assert (drawn.tokens[0] == last.tokens[row]).all()
    assert sorted(together.asked) == sorted(number for denoise in alone for number in denoise.asked)


def test_the_head_is_not_evaluated_at_positions_that_are_filled() -> None:
    schedule, expected = (
        Schedule.mask_only(20, 50),
        {"purity": [20, 15, 10, 5], "fewer-tokens": [5] * 4, "halton": [5] * 4},
    )
    for sampler, positions in expected.items():
        denoise = TwoStageDenoiser(50)
        asked = SamplingSettings(sampler, steps=4, guidance=1.0)
        list(sample(denoise, schedule, num_tokens=20, seeds=[0], settings=asked))
        assert denoise.asked == positions


@pytest.mark.parametrize("sampler", samplers())
def test_rows_come_and_go_between_steps(sampler: str) -> None:
    schedule = Schedule.paper(20, 50)
    half = torch.arange(16).remainder(50)[None]
    canvas = Canvas.noised(schedule, get_sampler(sampler), half, [5], redraw=half < 8)
    given = [
        ([11], SamplingSettings(sampler, 12, 3.0, "linear", truncation=0.9), None),
        ([5], SamplingSettings(sampler, 5, guidance=2.0), canvas),
        ([-4], SamplingSettings(sampler, 16, 4.0, "cosine", (0.2, 0.6), prior_scale=2.5), None),
    ]
    first, second, third = (
        Batch.start(schedule, num_tokens=16, seeds=seeds, settings=asked, canvas=begin) for seeds, asked, begin in given
    )
    finished = dict[int, Tensor]()
    batch, arrivals = first, {2: second, 3: third}
    for step in range(1, 60):
        if step in arrivals:
            batch = batch.join(arrivals[step])
        batch, _ = batch.advance(Denoiser(50, batch.seeds.tolist()))
        for row in (batch.left == 0).nonzero()[:, 0].tolist():
            finished[int(batch.seeds[row])] = batch.tokens[row]
        going = batch.left.nonzero()[:, 0].tolist()
        if not going and step > 3:
            break
        batch = batch.select(going[::-1])  # in any order
    for seeds, asked, begin in given:
        alone = run(schedule, 16, seeds, asked, canvas=begin)[-1].tokens[0]
        assert (finished[seeds[0]] == alone).all()
    assert (finished[5][8:] == half[0, 8:]).all()


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only])
@pytest.mark.parametrize("sampler", samplers())
def test_noised_to_the_end_is_a_fresh_image_and_not_at_all_is_the_old_one(sampler: str, make: Any) -> None:
    schedule, seeds, asked = make(20, 5), [3, 4, 5, 6], SamplingSettings(sampler, steps=8)
    x0 = torch.arange(48).remainder(5).view(4, 12)
    whole = torch.ones(4, 12, dtype=torch.bool)
    fresh = run(schedule, 12, seeds, asked)[-1].tokens
    for more in ({}, {"start": [20] * 4}, {"redraw": whole}):
        canvas = Canvas.noised(schedule, get_sampler(sampler), x0, seeds, **more)
        assert (run(schedule, 12, seeds, asked, canvas=canvas)[-1].tokens == fresh).all()
    for more in ({"start": [0] * 4}, {"redraw": ~whole}):
        canvas = Canvas.noised(schedule, get_sampler(sampler), x0, seeds, **more)
        assert (run(schedule, 12, seeds, asked, canvas=canvas)[-1].tokens == x0).all()
    canvas = Canvas.noised(schedule, get_sampler(sampler), x0, seeds, start=[20, 0, 10, 5])
    mixed = run(schedule, 12, seeds, asked, canvas=canvas)
    assert (mixed[-1].tokens[0] == fresh[0]).all()
    assert (mixed[-1].tokens[1] == x0[1]).all()
    alone = Canvas.noised(schedule, get_sampler(sampler), x0[2:3], seeds[2:3], start=[10])
    assert (run(schedule, 12, seeds[2:3], asked, canvas=alone)[-1].tokens[0] == mixed[-1].tokens[2]).all()


@pytest.mark.parametrize("sampler", ["strided", "purity"])
def test_half_the_way_is_half_noise(sampler: str) -> None:
    """A purity sampler leaves visible tokens alone, so it masks where the exact posterior also has to replace."""
    schedule = Schedule.paper(20, 4)
    x0 = torch.zeros(400, 100, dtype=torch.int64)
    noise = Canvas.noised(schedule, get_sampler(sampler), x0, range(400), start=[10] * 400).tokens
    share = noise.flatten().bincount(minlength=5) / 40_000
    alpha, beta, gamma = (table[10] for table in (schedule.alpha_bar, schedule.beta_bar, schedule.gamma_bar))
    expected = [alpha + beta, beta, beta, beta, gamma] if sampler == "strided" else [0.5, 0, 0, 0, 0.5]
    torch.testing.assert_close(share, torch.tensor(expected).float(), rtol=0, atol=0.01)


@pytest.mark.parametrize("sampler", ["strided", "purity"])
def test_a_hole_is_drawn_from_the_time_at_which_so_much_is_noise(sampler: str) -> None:
    schedule, x0 = Schedule.mask_only(20, 5), torch.zeros(1, 12, dtype=torch.int64)
    canvas = Canvas.noised(schedule, get_sampler(sampler), x0, [0], redraw=torch.arange(12)[None] < 3)
    denoise = Denoiser(5, (1,))
    list(sample(denoise, schedule, num_tokens=12, seeds=[0], settings=SamplingSettings(sampler, 3), canvas=canvas))
    assert int(denoise.calls[0][1][0]) == 5


@pytest.mark.parametrize("change", [{"seeds": [2]}, {"conditions": [8]}, {"guidance": 2.0}, {"truncation": 0.2}])
def test_seed_condition_and_settings_matter(change: dict[str, Any]) -> None:
    schedule = Schedule.mask_only(20, 50)
    asked = {"seeds": [1], "conditions": [1], "guidance": 3.0, "truncation": 0.9}

    def tokens(seeds: list[int], conditions: list[int], **rest: Any) -> Tensor:
        return run(schedule, 16, seeds, SamplingSettings(steps=8, **rest), conditions=conditions)[-1].tokens

    assert (tokens(**asked) == tokens(**asked)).all()
    assert (tokens(**asked) != tokens(**asked | change)).any()


@pytest.mark.parametrize("sampler", [name for name in samplers() if not get_sampler(name).adaptive])
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
    step = trace.reveal_step()
    for row in range(2):
        for position in range(10):
            n = int(step[row, position])
            assert frames[n - 1].revealed[row, position]
            assert trace.confidence[n - 1, row, position] == frames[n - 1].confidence[row, position]


def test_the_network_is_called_with_the_planned_times_and_twice_the_rows_only_when_guided() -> None:
    schedule = Schedule.mask_only(20, 5)
    middle = Guidance(2.0, interval=(0.25, 0.75))  # of the times 20, 15, 10 and 5: 15 and 10
    for guidance, num_rows in ((1.0, [2] * 4), (2.0, [4] * 4), (middle, [2, 4, 4, 2])):
        denoise = Denoiser(5, (1, 2))
        asked = [SamplingSettings(steps=4).changed(guidance=guidance), SamplingSettings(steps=1, guidance=1.0)]
        list(sample(denoise, schedule, num_tokens=4, seeds=[0, 1], settings=asked))
        assert [t.tolist()[:2] for _, t in denoise.calls] == [[20, 20], [15, 1], [10, 1], [5, 1]]
        assert [len(tokens) for tokens, _ in denoise.calls] == num_rows
        for tokens, t in denoise.calls:
            assert (tokens[:2] == tokens[-2:]).all()
            assert (t[:2] == t[-2:]).all()


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("sampler", samplers())
def test_images_without_guidance_are_not_predicted_under_the_null_condition(
    sampler: str, batch_invariant: bool
) -> None:
    schedule, conditions, seeds = Schedule.paper(20, 50), (1, 2, 3, 4), [7, 8, 9, 10]
    asked = [
        SamplingSettings(sampler, 8, 1.0),
        SamplingSettings(sampler, 8, 3.0, guidance_interval=(0.0, 0.5), truncation=0.9),
        SamplingSettings(sampler, 5, 2.0),
        SamplingSettings(sampler, 3, 4.0, "falling"),
    ]
    whole = TwoStageDenoiser(50, conditions, batch_invariant=batch_invariant)
    parts = PartlyGuidedDenoiser(50, conditions, batch_invariant=batch_invariant)
    frames = [list(sample(denoise, schedule, num_tokens=36, seeds=seeds, settings=asked)) for denoise in (whole, parts)]
    for one, other in zip(*frames, strict=True):
        assert (one.tokens == other.tokens).all()
        assert (one.confidence == other.confidence).all()
        torch.testing.assert_close(one.prediction.pair(), other.prediction.pair(), rtol=0, atol=0)
    batch = Batch.start(schedule, num_tokens=36, seeds=seeds, settings=asked)
    for frame, (tokens, t) in zip(frames[1], parts.calls, strict=True):
        guided = batch.settings.guided()
        assert list(frame.prediction.guided) == guided
        assert 0 not in guided
        assert len(tokens) == 4 + len(guided)
        assert (tokens[4:] == tokens[guided]).all()
        assert (t[4:] == t[guided]).all()
        batch, _ = batch.advance(PartlyGuidedDenoiser(50, conditions))
    assert sum(len(tokens) for tokens, _ in parts.calls) < sum(len(tokens) for tokens, _ in whole.calls)
    assert parts.guided_rows == [guided for guided in (list(one.prediction.guided) for one in frames[1]) if guided]
    for row in range(4):
        alone = PartlyGuidedDenoiser(50, conditions[row : row + 1], batch_invariant=batch_invariant)
        *_, last = sample(alone, schedule, num_tokens=36, seeds=seeds[row : row + 1], settings=asked[row])
        assert (last.tokens[0] == frames[1][-1].tokens[row]).all()


def agreeing_later(tokens: Tensor, t: Tensor) -> Tensor:
    """Of two codes, p = (1/2 + d, 1/2 - d) given the condition and 1/2 given none, d = t / 40: a distance of d."""
    d = (t / 40).double().repeat_interleave(tokens.shape[1]).view(tokens.shape)
    d[len(tokens) // 2 :] = 0  # of a batch in which all are guided
    return torch.stack([0.5 + d, 0.5 - d], -1).log()


def test_guidance_ends_after_the_step_in_which_the_predictions_are_close() -> None:
    """Distances of 0.5, 0.375, 0.25 and 0.125 at the times 20, 15, 10 and 5."""
    schedule = Schedule.mask_only(20, 2)
    for threshold, guided in ((0.0, 4), (0.12, 4), (0.13, 4), (0.24, 4), (0.26, 3), (0.4, 2), (1.0, 1)):
        asked = SamplingSettings("fewer-tokens", 4, 2.0, guidance_threshold=threshold)

        def denoise(tokens: Tensor, t: Tensor) -> Tensor:
            return agreeing_later(tokens, t) if len(tokens) == 2 else agreeing_later(tokens, t * 0)

        frames = list(sample(denoise, schedule, num_tokens=4, seeds=[0], settings=asked))
        assert [bool(frame.prediction.guided) for frame in frames] == [step < guided for step in range(4)]
        distances = [frame.prediction.distance(0, torch.arange(4)) for frame in frames[:guided]]
        assert distances == pytest.approx([0.5, 0.375, 0.25, 0.125][:guided], abs=1e-6)


@pytest.mark.parametrize("sampler", ["purity", "fewer-tokens", "strided", "corrected", "entropy-bound"])
def test_images_that_are_guided_until_the_predictions_are_close_do_not_depend_on_the_batch(sampler: str) -> None:
    schedule, seeds, halfway = Schedule.paper(20, 8), [11, 5, -4, 8], torch.arange(16).remainder(8)[None]
    canvas = Canvas.noised(schedule, get_sampler(sampler), halfway, [5], redraw=halfway < 4)
    thresholds, begins = (0.6, 0.65, 0.0, 0.9), (None, canvas, None, None)
    given = [
        ([seed], SamplingSettings(sampler, 8, 3.0, guidance_threshold=one), begin)
        for seed, one, begin in zip(seeds, thresholds, begins, strict=True)
    ]

    def rows(batch: Batch) -> Batch:
        return batch.advance(PartlyGuidedDenoiser(8, batch.seeds.tolist(), batch_invariant=True))[0]

    alone, guided = dict[int, Tensor](), list[int]()
    for own, asked, begin in given:
        denoise = PartlyGuidedDenoiser(8, own, batch_invariant=True)
        frames = list(sample(denoise, schedule, num_tokens=16, seeds=own, settings=asked, canvas=begin))
        alone[own[0]] = frames[-1].tokens[0]
        guided.append(sum(len(frame.prediction.guided) for frame in frames))
    assert min(guided) < guided[2]
    first, *others = (
        Batch.start(schedule, num_tokens=16, seeds=own, settings=asked, canvas=begin) for own, asked, begin in given
    )
    batch, finished = first, dict[int, Tensor]()
    while len(batch.seeds):
        batch = rows(batch.join(others.pop(0)) if others else batch)
        finished |= {int(batch.seeds[row]): batch.tokens[row] for row in (batch.left == 0).nonzero()[:, 0].tolist()}
        batch = batch.select(batch.left.nonzero()[:, 0].tolist()[::-1])
    assert finished.keys() == alone.keys()
    for seed, tokens in alone.items():
        assert (finished[seed] == tokens).all()


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
        (Canvas(HOLES[:, :3]), r"tokens of shape \(1, 3\), but \(1, 4\) is needed"),
        (Canvas(HOLES.repeat(2, 1)), "tokens of shape"),
        (Canvas(HOLES, start=[10]), r"start is \[10\]: give a time from 0 to 9"),
        (Canvas(HOLES, start=[1, 2]), "start is"),
    ],
)
def test_a_canvas_is_checked(canvas: Canvas, message: str) -> None:
    asked = SamplingSettings(steps=4)
    with pytest.raises(InputError, match=message):
        sample(Denoiser(3), Schedule.published(9, 3), num_tokens=4, seeds=[1], settings=asked, canvas=canvas)
