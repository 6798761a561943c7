"""Guides, with denoisers that are tables: closed forms, what is evaluated when, and batches of different guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqdiff.diffusion import Schedule, guide
from vqdiff.foundation.errors import InputError
from vqdiff.plugins import GUIDES
from vqdiff.sampling import Batch, Canvas, Frame, SamplingSettings, combined_by, get_sampler, in_turn, sample, samplers
from vqdiff.sampling.guides import references_of

pytestmark = pytest.mark.numeric
CODES = 8
SALTS = {"prompt": 0, "null": 1, "weaker": 2, "skipped-layers": 3}


class Table:
    """Logits (N, L, K) looked up by token, neighbour, position, time and condition, in as many tables as references."""

    def __init__(self, conditions: Sequence[int], kind: str = "prompt", **more: Any) -> None:
        self.conditions, self.kind = tuple(conditions), kind
        self.batch_invariant = more.get("batch_invariant", False)
        self.same: bool = more.get("same", False)
        """Whether all tables are the same one."""
        self.asked: list[tuple[str, int]] = more.get("asked", [])
        """The kind and the number of rows of each call."""
        self.null: tuple[int, ...] = more.get("null", tuple(range(len(conditions))))

    def copy(self, **changes: Any) -> Table:
        given = {"conditions": self.conditions, "kind": self.kind, "null": self.null} | changes
        shared = {"batch_invariant": self.batch_invariant, "same": self.same, "asked": self.asked}
        return Table(given.pop("conditions"), given.pop("kind"), **shared, **given)

    def features(self, tokens: Tensor, t: Tensor) -> Tensor:
        self.asked.append((self.kind, len(tokens)))
        if self.kind != "prompt":
            return self.lookup(self.kind, tokens, t, self.conditions)
        images, null = len(self.conditions), [self.conditions[row] for row in self.null]
        assert len(tokens) in (images, images + len(null))
        both = [self.lookup("prompt", tokens[:images], t[:images], self.conditions)]
        if len(tokens) > images:
            both.append(self.lookup("null", tokens[images:], t[images:], null))
        return torch.cat(both)

    def lookup(self, kind: str, tokens: Tensor, t: Tensor, conditions: Sequence[int]) -> Tensor:
        salt = 0 if self.same else SALTS[kind]
        table = 2 * torch.randn(997, CODES, generator=torch.Generator().manual_seed(salt))
        given = torch.tensor([0 if kind == "null" and not self.same else one % 89 for one in conditions])
        positions = torch.arange(tokens.shape[1])
        hashed = 3 * tokens + 5 * tokens.roll(1, 1) + 11 * positions + 17 * t[:, None] + 29 * given[:, None]
        return table[hashed % 997]

    def logits(self, features: Tensor) -> Tensor:
        return features

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        return self.logits(self.features(tokens, t))

    def guided(self, rows: Sequence[int]) -> Table:
        return self.copy(null=tuple(rows))

    def reference(self, name: str, rows: Sequence[int]) -> Table:
        return self.copy(kind=name, conditions=[self.conditions[row] for row in rows])


@pytest.fixture
def added() -> Iterator[Callable[[str, Any], None]]:
    """Registers guides for the test."""
    kept = vars(GUIDES)["_things"].copy(), vars(GUIDES)["_descriptions"].copy()
    yield lambda name, chosen: GUIDES.register(name, chosen)  # type: ignore[misc]
    vars(GUIDES)["_things"], vars(GUIDES)["_descriptions"] = kept


def final(denoise: Table, seeds: Sequence[int], given: Any, **more: Any) -> list[Frame]:
    schedule = more.pop("schedule", Schedule.paper(20, CODES))
    return list(sample(denoise, schedule, num_tokens=16, seeds=seeds, settings=given, **more))


@pytest.mark.parametrize("reference", ["null", "weaker", "skipped-layers"])
def test_guided_log_probabilities_are_those_of_the_formula(reference: str) -> None:
    """log p ∝ log p_ref + g (log p - log p_ref), for each image with its own scale."""
    denoise, scales = Table((4, 7)), (3.0, -0.5)
    asked = [SamplingSettings("fewer-tokens", 4, scale, guide=reference) for scale in scales]
    schedule = Schedule.mask_only(20, CODES)
    tokens, t = torch.full((2, 16), 8), torch.full((2,), 20)
    for frame in final(denoise, [1, 2], asked, schedule=schedule):
        good, bad = (denoise.lookup(kind, tokens, t, (4, 7)).double().log_softmax(-1) for kind in ("prompt", reference))
        g = torch.tensor(scales, dtype=torch.float64)[:, None, None]
        wanted = (bad + g * (good - bad)).softmax(-1)
        torch.testing.assert_close(frame.prediction.at().double().exp(), wanted, atol=1e-5, rtol=1e-4)
        pair = [one.double().log_softmax(-1) for one in frame.prediction.pair()]
        torch.testing.assert_close(pair, [good, bad], atol=1e-5, rtol=1e-4)
        distances = (good.exp() - bad.exp()).abs().sum(-1).mean(1) / 2
        found = [frame.prediction.distance(row, torch.arange(16)) for row in range(2)]
        assert found == pytest.approx(distances.tolist(), abs=1e-5)
        tokens, t = frame.tokens, t - 5


@pytest.mark.parametrize("name", GUIDES.names())
def test_away_from_the_same_prediction_nothing_changes(name: str) -> None:
    denoise = Table((1, 2, 3), same=True)
    guided, plain = (final(denoise, [7, 8, 9], SamplingSettings("purity", 5, g, guide=name)) for g in (4.0, 1.0))
    assert (guided[-1].tokens == plain[-1].tokens).all()
    different = final(Table((1, 2, 3)), [7, 8, 9], SamplingSettings("purity", 5, 4.0, guide=name))
    assert (different[-1].tokens != plain[-1].tokens).any()


@pytest.mark.parametrize("second", ["weaker", "skipped-layers"])
def test_each_part_of_the_run_asks_for_what_it_leads_away_from(second: str) -> None:
    """Four steps at r = 0, 1/4, 1/2 and 3/4 of the way; outside the interval only the prediction is asked for."""
    for interval, wanted in (
        ((0.0, 1.0), [("prompt", 4), ("prompt", 4), (second, 2), ("prompt", 2), (second, 2), ("prompt", 2)]),
        ((0.2, 0.7), [("prompt", 2), ("prompt", 4), (second, 2), ("prompt", 2), ("prompt", 2)]),
    ):
        denoise = Table((1, 2))
        asked = SamplingSettings("fewer-tokens", 4, 2.0, guidance_interval=interval, guide=f"null-then-{second}")
        final(denoise, [1, 2], asked, schedule=Schedule.mask_only(20, CODES))
        assert denoise.asked == wanted


def test_what_settings_lead_away_from() -> None:
    def found(**given: Any) -> set[str]:
        return {*references_of(SamplingSettings(**given), 20)}

    assert found() == {"null"}
    assert found(guide="weaker") == {"weaker"}
    assert found(guide="weaker", guidance=1.0) == set()
    assert found(guide="null-then-weaker") == {"null", "weaker"}
    assert found(guide="null-then-weaker", guidance_interval=(0.5, 1.0)) == {"weaker"}
    assert found(guide="null-then-skipped-layers", guidance_interval=(0.1, 0.4)) == {"null"}


@given(st.lists(st.sampled_from(["null", "weaker", "skipped-layers"]), min_size=1, max_size=5), st.floats(0, 0.999999))
@settings(deadline=None)
def test_turns_are_equal_parts(references: list[Any], done: float) -> None:
    chosen = in_turn(*references)(done)
    number = next(i for i in range(len(references)) if done * len(references) < i + 1)
    assert chosen == references[number]


MIXED: list[tuple[dict[str, Any], str | None]] = [
    ({"guidance": 3.0}, None),
    ({"guidance": 2.0, "guide": "weaker"}, None),
    ({"guidance": 1.0, "guide": "skipped-layers"}, None),
    ({"guidance": 4.0, "guide": "null-then-weaker", "guidance_schedule": "linear"}, "half"),
    ({"guidance": 2.5, "guide": "skipped-layers", "guidance_interval": (0.2, 0.8)}, None),
    ({"guidance": 3.0, "guide": "weaker", "guidance_threshold": 0.72}, "half"),
    ({"guidance": 3.0, "guide": "combined"}, None),
]


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("sampler", samplers())
def test_images_with_different_guides_do_not_see_each_other(
    sampler: str, batch_invariant: bool, added: Callable[[str, Any], None]
) -> None:
    """Each joins while others are under way, and leaves when it is finished, in another order."""
    added("combined", combined_by(lambda cond, other, scale: guide(cond, other / 2, scale))(in_turn("weaker", "null")))
    schedule, seeds = Schedule.paper(20, CODES), [11, 5, -4, 8, 2, 3, 6]
    halfway = torch.arange(16).remainder(8)[None]
    asked = [SamplingSettings(sampler, 4 + row % 3, truncation=0.9, **own) for row, (own, _) in enumerate(MIXED)]
    canvases = [
        Canvas.noised(schedule, get_sampler(sampler), halfway, [seed], redraw=halfway < 4) if begin else None
        for seed, (_, begin) in zip(seeds, MIXED, strict=True)
    ]
    alone = [
        final(Table([seed], batch_invariant=batch_invariant), [seed], own, canvas=canvas)[-1].tokens[0]
        for seed, own, canvas in zip(seeds, asked, canvases, strict=True)
    ]
    first, *others = (
        Batch.start(schedule, num_tokens=16, seeds=[seed], settings=own, canvas=canvas)
        for seed, own, canvas in zip(seeds, asked, canvases, strict=True)
    )
    batch, finished = first, dict[int, Tensor]()
    while len(batch.seeds):
        batch = batch.join(others.pop(0)) if others else batch
        batch, prediction = batch.advance(Table(batch.seeds.tolist(), batch_invariant=batch_invariant))
        whole = prediction.at()
        for row in range(len(batch.seeds)):
            torch.testing.assert_close(prediction.select(row).at()[0].double(), whole[row].double())
        finished |= {int(batch.seeds[row]): batch.tokens[row] for row in (batch.left == 0).nonzero()[:, 0].tolist()}
        batch = batch.select(batch.left.nonzero()[:, 0].tolist()[::-1])
    for seed, tokens in zip(seeds, alone, strict=True):
        assert (finished[seed] == tokens).all()


def test_only_what_is_needed_is_evaluated() -> None:
    """In a step, the network for all images and those led away from null, and each other reference for its own."""
    asked = [SamplingSettings("fewer-tokens", 4, **own) for own, _ in MIXED[:5]]
    denoise = Table(range(5))
    next(iter(sample(denoise, Schedule.paper(20, CODES), num_tokens=16, seeds=range(5), settings=asked)))
    assert denoise.asked == [("weaker", 1), ("prompt", 6)]  # the last two begin unguided


def test_guidance_ends_below_the_threshold_whatever_it_leads_away_from() -> None:
    for name, kind in (("weaker", "weaker"), ("skipped-layers", "skipped-layers"), ("null", "prompt")):
        denoise = Table((1,), same=True)
        final(denoise, [1], SamplingSettings("fewer-tokens", 4, 3.0, guidance_threshold=0.01, guide=name))
        assert len([one for one in denoise.asked if one in ((kind, 1 + (name == "null")),)]) == 1


def test_a_guide_of_ones_own_combines_as_it_says(added: Callable[[str, Any], None]) -> None:
    """A linear mixture of probabilities, for which the mean of the two predictions is known."""

    @combined_by(lambda cond, other, scale: torch.lerp(other.softmax(-1), cond.softmax(-1), scale[:, None, None]).log())
    def half(done: float) -> Any:
        """Half of each."""
        return "weaker"

    added("half", half)
    assert GUIDES.descriptions()["half"] == "Half of each."
    for frame in final(Table((1, 2)), [1, 2], SamplingSettings("fewer-tokens", 3, 0.5, guide="half")):
        one, other = (logits.softmax(-1) for logits in frame.prediction.pair())
        torch.testing.assert_close(frame.prediction.at().exp(), (one + other) / 2)


def test_mistakes_are_one_line(added: Callable[[str, Any], None]) -> None:
    def plain(tokens: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 8)

    with pytest.raises(InputError, match="has no prediction 'weaker' to lead away from: use the guide null"):
        final(plain, [1], SamplingSettings("purity", 2, 2.0, guide="weaker"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown guide 'weeker': did you mean 'weaker'"):
        SamplingSettings(guide="weeker")
    added("wrong", lambda done: "nul")
    with pytest.raises(InputError, match="guide 'wrong' leads away from 'nul': use null, weaker, skipped-layers"):
        references_of(SamplingSettings(guide="wrong"), 20)
