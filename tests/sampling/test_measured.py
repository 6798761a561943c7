"""The measured reveal curve: the cheapest cuts, against enumeration and closed forms."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations, product
from math import log, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.sampling import Batch, Canvas, SamplingSettings
from vqdiff.sampling.curves import remaining
from vqdiff.sampling.measured import cheapest, checked_masked_nll, nats, token_nll

tables = st.lists(st.floats(0, 8), min_size=2, max_size=9).map(lambda values: tuple(sorted(values)))
SQUARES = tuple((m / 120) ** 2 for m in range(121))


def parts(cuts: tuple[int, ...]) -> list[int]:
    return [before - after for before, after in pairwise(cuts)]


@settings(deadline=None)
@given(tables, st.integers(1, 9), st.integers(0, 3), st.data())
def test_no_other_cuts_are_cheaper(table: tuple[float, ...], total: int, known: int, data: st.DataObject) -> None:
    steps, num_tokens = data.draw(st.integers(1, total)), total + known
    cuts = cheapest(total, steps, table, num_tokens)
    assert (cuts[0], cuts[-1], len(cuts)) == (total, 0, steps + 1)
    assert min(parts(cuts)) >= 1
    every = [(total, *sorted(between, reverse=True), 0) for between in combinations(range(1, total), steps - 1)]
    least = min(nats(one, table, num_tokens) for one in every)
    assert nats(cuts, table, num_tokens) == pytest.approx(least, abs=1e-6)


@settings(deadline=None)
@given(st.floats(0, 5), st.just(0.0) | st.floats(0.01, 5), st.integers(1, 200), st.data())
def test_linear_h_makes_equal_parts(a: float, b: float, total: int, data: st.DataObject) -> None:
    """Σ d_i (a + b M_i / L) = a S + b (S² + Σ d_i²) / 2L for parts d_i of S tokens; flat h, too, makes equal ones."""
    steps = data.draw(st.integers(1, total))
    cuts = cheapest(total, steps, (a, a + b), 200)
    assert max(parts(cuts)) - min(parts(cuts)) <= 1
    squares = sum(part**2 for part in parts(cuts))
    assert nats(cuts, (a, a + b), 200) == pytest.approx(a * total + b * (total**2 + squares) / 400)


@pytest.mark.parametrize("total", [120, 90, 45])
def test_two_steps_along_a_square(total: int) -> None:
    """(M − j) h(M) + j h(j) with h = (m/L)² is least at j = M / √3, also where an edit masks M of L tokens."""
    assert abs(cheapest(total, 2, SQUARES, 120)[1] - total / sqrt(3)) <= 1


def test_an_edit_is_planned_for_its_share_of_all_tokens() -> None:
    """h is flat up to half of the tokens: those parts are equal, which they are not where all are masked."""
    table = (1.0, 1.0, 4.0)
    assert parts(cheapest(60, 4, table, 120)) == [15] * 4
    assert parts(cheapest(120, 4, table, 120)) != [30] * 4


def test_a_table_is_interpolated() -> None:
    assert token_nll((1.0, 2.0, 4.0), 8).tolist() == [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4]
    assert token_nll((1.0, 2.0, 4.0, 5.0), 2).tolist() == [1, 3, 5]


@settings(deadline=None)
@given(tables, st.integers(1, 60), st.data())
def test_other_curves_cost_no_less(table: tuple[float, ...], total: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, total))
    counts = torch.tensor([total] * 5), torch.tensor([steps] * 5)
    names = [(name, 2.0) for name in ("measured", "linear", "cosine", "arccos", "power")]
    own, *others = (nats(left.tolist(), table, 60) for left in remaining(*counts, names, table, 60))
    assert all(own <= other + 1e-6 for other in others)


@pytest.mark.parametrize("cuts", [(4, 0), (4, 2, 0), (4, 3, 0), (4, 3, 2, 1, 0)])
def test_the_nats_lost_are_a_divergence(cuts: tuple[int, ...]) -> None:
    """By enumeration of four bits: the mean over orders of KL(p ‖ what the steps sample), with the exact network."""
    p = torch.rand(2, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    p /= p.sum()
    tokens = frozenset(range(4))

    def marginal(x: tuple[int, ...], known: frozenset[int]) -> float:
        return float(p[tuple(x[i] if i in known else slice(None) for i in range(4))].sum())

    def divergence(order: tuple[int, ...]) -> float:
        total = 0.0
        for x in product(range(2), repeat=4):
            sampled = 1.0
            for before, after in pairwise(cuts):
                visible = frozenset(order[: 4 - before])
                for i in order[4 - before : 4 - after]:
                    sampled *= marginal(x, visible | {i}) / marginal(x, visible)
            total += float(p[x]) * log(float(p[x]) / sampled)
        return total

    def entropy(known: frozenset[int], i: int) -> float:
        return -sum(
            float(p[x]) * log(marginal(x, known | {i}) / marginal(x, known)) for x in product(range(2), repeat=4)
        )

    def h(masked: int) -> float:
        found = [entropy(tokens - set(some), i) for some in combinations(tokens, masked) for i in some]
        return sum(found) / len(found)

    lost = sum((before - after) * h(before) for before, after in pairwise(cuts)) - sum(h(m) for m in range(1, 5))
    orders = list(permutations(range(4)))
    assert lost == pytest.approx(sum(map(divergence, orders)) / len(orders))


def test_a_batch_has_a_measurement_or_another_curve() -> None:
    schedule, asked = Schedule.mask_only(10, 4), SamplingSettings(steps=4, curve="measured")
    with pytest.raises(InputError, match="curve is measured, and this model has no measurement: vqdiff measure-curve"):
        Batch.start(schedule, num_tokens=16, seeds=[0], settings=asked)
    table, linear = (1.0, 1.0, 5.0), SamplingSettings(steps=3)
    canvas = Canvas(torch.tensor([[4] * 16, [4] * 16, [4] * 8 + [0] * 8]))
    batch = Batch.start(
        schedule, num_tokens=16, seeds=[0, 1, 2], settings=[linear, asked, asked], canvas=canvas, masked_nll=table
    )
    assert batch.plan.reveal[0].tolist() == [5, 5, 6, 0]
    assert batch.plan.reveal[1].tolist() == parts(cheapest(16, 4, table, 16))
    assert batch.plan.reveal[2].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("table", ["1", [], [1.0], [1, "2"], [2.0, 1.0], [-1.0, 1.0], [1.0, float("nan")]])
def test_a_table_is_checked(table: object) -> None:
    with pytest.raises(InputError, match="index: masked_nll must be two or more numbers of at least 0"):
        checked_masked_nll(table, "index")


def test_a_table_is_numbers() -> None:
    assert checked_masked_nll([0, 1, 1.5], "") == (0.0, 1.0, 1.5)
    assert checked_masked_nll(None, "") == ()
