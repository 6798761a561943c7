"""Candidates: their seeds, how many go on, and their agreement with the condition, against closed forms."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.sampling import SamplingSettings, agreement, likelihood
from vqdiff.sampling.candidates import RANKING_CALLS, best, candidate_seeds, network_calls, rungs

K, L = 3, 4
SCHEDULE = Schedule.mask_only(10, K)
IMAGES = torch.tensor(list(product(range(K), repeat=L)))


def joints(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities of all images, given the condition and without it."""
    random = torch.Generator().manual_seed(seed)
    cond, null = (2 * torch.randn(2, len(IMAGES), generator=random).double()).softmax(1)
    return cond, null


def exact(cond: Tensor, null: Tensor) -> Any:
    """The exact denoiser for two joint distributions; the last half of the rows is predicted under the second."""

    def one(tokens: Tensor, joint: Tensor) -> Tensor:
        fits = ((tokens[:, None] == IMAGES) | (tokens[:, None] == K)).all(2)
        weights = (joint * fits) / (joint * fits).sum(1, keepdim=True)
        codes = torch.nn.functional.one_hot(IMAGES, K).double()
        return torch.einsum("bn,nlk->blk", weights, codes).log()

    def denoise(tokens: Tensor, t: Tensor) -> Tensor:
        assert (t > 0).all()
        first, last = tokens.chunk(2)
        assert torch.equal(first, last)
        return torch.cat([one(first, cond), one(last, null)])

    return denoise


def gain(cond: Tensor, null: Tensor, image: list[int], i: int, given: set[int]) -> float:
    """log p(x_i | x_given, y) − log p(x_i | x_given, ∅), by enumeration."""
    agrees = (IMAGES[:, sorted(given)] == torch.tensor(image)[sorted(given)]).all(1)
    both = agrees & (IMAGES[:, i] == image[i])
    first, second = (one[both].sum().log() - one[agrees].sum().log() for one in (cond, null))
    return float(first - second)


@pytest.mark.parametrize("seed", [0, 1])
def test_with_one_token_masked_at_a_time_it_is_the_ratio_of_pseudo_likelihoods(seed: int) -> None:
    cond, null = joints(seed)
    found = agreement(exact(cond, null), SCHEDULE, IMAGES, calls=L)
    for image, value in zip(IMAGES.tolist(), found, strict=True):
        wanted = sum(gain(cond, null, image, i, set(range(L)) - {i}) for i in range(L))
        assert value * L == pytest.approx(wanted, abs=1e-4)


def test_in_two_parts_each_token_is_predicted_from_the_other_part() -> None:
    cond, null = joints()
    found = torch.tensor(agreement(exact(cond, null), SCHEDULE, IMAGES, calls=2))

    def divided(one: set[int], other: set[int]) -> Tensor:
        parts = [*((i, other) for i in one), *((i, one) for i in other)]
        return torch.tensor([sum(gain(cond, null, image, *part) for part in parts) / L for image in IMAGES.tolist()])

    divisions = [({0, 3}, {1, 2}), ({0, 1}, {2, 3}), ({0, 2}, {1, 3})]
    assert sum(torch.allclose(found, divided(*two), atol=1e-4) for two in divisions) == 1


def test_the_likelihood_needs_no_null_condition() -> None:
    """With one token masked at a time it is the pseudo-likelihood."""
    cond, null = joints()
    certain = torch.ones(len(IMAGES)).double()
    found = likelihood(lambda tokens, t: exact(cond, null)(tokens.repeat(2, 1), t)[: len(tokens)], SCHEDULE, IMAGES, L)
    for image, value in zip(IMAGES.tolist(), found, strict=True):
        # The null distribution is uniform, and adds log K to each token.
        wanted = sum(gain(cond, certain, image, i, set(range(L)) - {i}) - math.log(K) for i in range(L))
        assert value * L == pytest.approx(wanted, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, L), st.integers(0, 1000))
def test_of_independent_tokens_it_is_the_ratio_of_likelihoods(calls: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    cond, null = (torch.randn(L, K, generator=random).double().log_softmax(1) for _ in range(2))
    logs = [one[torch.arange(L), IMAGES].sum(1) for one in (cond, null)]
    found = agreement(exact(logs[0].exp(), logs[1].exp()), SCHEDULE, IMAGES, calls)
    torch.testing.assert_close(torch.tensor(found).double() * L, logs[0] - logs[1], atol=1e-4, rtol=0)


def test_only_what_is_revealed_counts() -> None:
    cond, null = joints()
    tokens = torch.tensor([[0, K, 2, 1], [K, K, 1, K], [K] * L])
    found = agreement(exact(cond, null), SCHEDULE, tokens, calls=L)
    for row, value in zip(tokens.tolist(), found, strict=True):
        known = {i for i in range(L) if row[i] != K}
        gains = [gain(cond, null, row, i, known - {i}) for i in known]
        assert value == pytest.approx(sum(gains) / max(1, len(gains)), abs=1e-4)
    assert found == [agreement(exact(cond, null), SCHEDULE, row[None], calls=L)[0] for row in tokens]


def test_what_is_impossible_ranks_last_and_what_only_the_condition_allows_first() -> None:
    cond, null = joints()
    cond[3], null[7] = 0, 0
    found = agreement(exact(cond / cond.sum(), null / null.sum()), SCHEDULE, IMAGES[[3, 5, 7]], calls=L)
    assert found[0] < -1000 < found[1] < 1000 < found[2]
    cond[7] = 0
    (neither,) = agreement(exact(cond / cond.sum(), null / null.sum()), SCHEDULE, IMAGES[[7]], calls=L)
    assert neither == pytest.approx(0)


def test_a_schedule_without_masks() -> None:
    with pytest.raises(InputError, match="no masks"):
        agreement(exact(*joints()), Schedule.uniform_only(10, K), IMAGES)


@given(st.integers(-(2**64), 2**64), st.integers(1, 400), st.integers(1, 1000))
def test_no_two_candidates_of_a_call_have_the_same_seed(seed: int, images: int, best_of: int) -> None:
    own = range(seed, seed + images)
    seeds = candidate_seeds(own, min(best_of, 20000 // images))
    assert seeds[:: len(seeds) // images] == list(own)
    assert len({one % 2**64 for one in seeds}) == len(seeds)


def test_half_of_the_candidates_leave_after_a_quarter_and_after_half_of_the_steps() -> None:
    def left(best_of: int, steps: int, pruning: str = "halving") -> dict[int, int]:
        return rungs(SamplingSettings(best_of=best_of, pruning=pruning), steps)

    assert left(8, 16) == {4: 4, 8: 2}
    assert left(4, 16) == {4: 2, 8: 1}
    assert left(5, 10) == {3: 3, 5: 2}
    assert left(2, 16) == {4: 1}
    assert left(8, 3) == {1: 4, 2: 2}
    assert left(8, 2) == {1: 2}
    assert left(8, 1) == left(8, 0) == left(1, 16) == left(8, 16, "none") == {}


@pytest.mark.parametrize(
    ("given", "steps", "calls"),
    [
        ({}, 16, 16),
        ({"best_of": 4}, 16, 4 * (16 + RANKING_CALLS)),
        ({"best_of": 4, "ranking": "scorer"}, 16, 4 * 16),
        ({"best_of": 4, "pruning": "halving"}, 16, 4 * 4 + 2 * 4 + 8 + (4 + 2) * RANKING_CALLS),
        ({"best_of": 8, "pruning": "halving"}, 16, 8 * 4 + 4 * 4 + 2 * 8 + (8 + 4 + 2) * RANKING_CALLS),
        ({"best_of": 8, "pruning": "halving", "ranking": "scorer"}, 16, 8 * 4 + 4 * 4 + 2 * 8 + 12 * RANKING_CALLS),
        ({"best_of": 3, "pruning": "halving"}, 1, 3 + 3 * RANKING_CALLS),
    ],
)
def test_network_calls_are_those_of_all_candidates_and_of_ranking(given: Any, steps: int, calls: int) -> None:
    assert network_calls(SamplingSettings(**given), steps) == calls


def test_of_equal_candidates_the_first_is_best() -> None:
    assert best([1.0, 3.0, 2.0, 3.0]) == [1]
    assert best([1.0, 3.0, 2.0, 3.0], 2) == [1, 3]
    assert best([2.0, 2.0, 2.0], 2) == [0, 1]
    assert best([5.0], 3) == [0]
