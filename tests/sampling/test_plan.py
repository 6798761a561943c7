from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_cases import load
from vqdiff.diffusion import Schedule
from vqdiff.sampling.plan import (
    Plan,
    PlanInput,
    corrected_plan,
    looped_plan,
    masked_step,
    reference_fast_plan,
    reference_reveal_plan,
    reference_reveals,
    reveal_plan,
    strided_plan,
)
from vqdiff.settings import SamplingSettings


def task(num_tokens: int, *rows: tuple[int, int, int], num_steps: int = 100) -> PlanInput:
    """Rows are (steps, start, masked)."""
    return PlanInput(Schedule.published(num_steps, 5), num_tokens, *torch.tensor(rows).T)


def rows(plan: Plan, row: int = 0) -> list[tuple[int, int, int]]:
    """List (t, s, reveal) of a row, without the padding."""
    columns = torch.stack([plan.t[row], plan.s[row], plan.reveal[row]], 1).tolist()
    return [(t, s, reveal) for t, s, reveal in columns if t > 0]


counts = st.integers(1, 300)


@settings(deadline=None)
@given(st.integers(1, 150), st.floats(0, 1))
def test_masked_step_is_the_nearest(num_steps: int, share: float) -> None:
    schedule = Schedule.published(num_steps, 5)
    t = int(masked_step(schedule, torch.tensor(share, dtype=torch.float64)))
    assert (t == 0) == (share == 0)
    distance = (schedule.gamma_bar[1:] - share).abs()
    assert share == 0 or distance[t - 1] == distance.min()


@settings(deadline=None)
@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=4), st.integers(300, 400), st.integers(1, 120))
def test_reveal_plan(asked: list[tuple[int, int, int]], num_tokens: int, num_steps: int) -> None:
    plan = reveal_plan(task(num_tokens, *asked, num_steps=num_steps))
    for row, (steps, _, masked) in enumerate(asked):
        columns = rows(plan, row)
        t, s, reveal = zip(*columns, strict=True)
        assert len(columns) == min(steps, masked)
        assert sum(reveal) == masked
        assert max(reveal) - min(reveal) <= 1
        assert list(t) == sorted(t, reverse=True)
        assert s == (*t[1:], 0)
        assert all(1 <= time <= num_steps for time in t)
        assert columns == rows(reveal_plan(task(num_tokens, asked[row], num_steps=num_steps)))  # whatever the batch


@settings(deadline=None)
@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=4))
def test_strided_plan(asked: list[tuple[int, int, int]]) -> None:
    plan = strided_plan(task(300, *asked))
    for row, (steps, start, _) in enumerate(asked):
        t, s, reveal = zip(*rows(plan, row), strict=True)
        strides = [a - b for a, b in zip(t, s, strict=True)]
        assert len(t) == min(steps, start)
        assert (t[0], s[-1]) == (start, 0)
        assert s[:-1] == t[1:]
        assert max(strides) - min(strides) <= 1
        assert set(reveal) == {0}


def looped(num_steps: int, *asked: tuple[int, int, float]) -> Plan:
    """Rows are (steps, start, share of the calls in the loop)."""
    steps, start, shares = zip(*asked, strict=True)
    settings = [SamplingSettings(renoise_loop=share) for share in shares]
    start = torch.tensor(start)
    return looped_plan(PlanInput(Schedule.mask_only(num_steps, 5), 300, torch.tensor(steps), start, start, settings))


@settings(deadline=None)
@given(st.lists(st.tuples(counts, st.integers(1, 100), st.floats(0, 1)), min_size=1, max_size=4))
def test_looped_plan(asked: list[tuple[int, int, float]]) -> None:
    plan = looped(100, *asked)
    for row, (steps, start, share) in enumerate(asked):
        t, s, _ = zip(*rows(plan, row), strict=True)
        stays = [a for a, b in zip(t, s, strict=True) if a == b]
        assert set(stays) <= {10}  # where 0.9 of the tokens are kept
        wanted = min(round(steps * share), steps - 2) if start > 10 else 0
        assert len(stays) == max(wanted, 0)
        assert (t[0], s[-1]) == (start, 0)
        assert s[:-1] == t[1:]
        assert len(t) <= steps
        moves = [(a, b) for a, b in zip(t, s, strict=True) if a > b]
        parts = [[move for move in moves if (move[1] >= 10) is above] for above in (True, False)] if stays else [moves]
        for part in parts:
            strides = [a - b for a, b in part]
            assert max(strides) - min(strides) <= 1
        assert rows(plan, row) == rows(looped(100, asked[row]))  # whatever the batch


@settings(deadline=None)
@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=4))
def test_a_plan_without_a_loop_is_one_of_strides(asked: list[tuple[int, int, int]]) -> None:
    for row in range(len(asked)):
        assert rows(looped_plan(task(300, *asked)), row) == rows(strided_plan(task(300, *asked)), row)


def test_calls_in_and_around_a_loop() -> None:
    times = [(100, 70), (70, 40), (40, 10), (10, 10), (10, 10), (10, 10), (10, 10), (10, 0)]
    assert [(t, s) for t, s, _ in rows(looped(100, (8, 100, 0.5)))] == times


def test_corrections_come_between_the_last_strides() -> None:
    times = [(100, 75), (75, 75), (75, 50), (50, 50), (50, 25), (25, 25), (25, 0)]
    assert [(t, s) for t, s, _ in rows(corrected_plan(task(9, (7, 100, 9))))] == times
    assert [(t, s) for t, s, _ in rows(corrected_plan(task(9, (6, 100, 9))))] == [times[0], *times[2:]]


def test_nothing_to_do_is_one_empty_step() -> None:
    for plan in (strided_plan, corrected_plan, looped_plan, reveal_plan, reference_fast_plan):
        assert rows(plan(task(9, (3, 0, 0)))) == []


def test_algorithm_1_starts_at_the_noisiest_time_and_follows_the_masked_share() -> None:
    columns = rows(reveal_plan(task(100, (4, 100, 100))))
    assert columns == [(100, 75, 25), (75, 51, 25), (51, 26, 25), (26, 0, 25)]


FAST = load("fast_schedule")


@pytest.mark.parametrize("name", FAST)
def test_reference_fast_times(name: str) -> None:
    num_steps, skip = map(int, name.removeprefix("exp/T").split("_skip"))
    expected = [tuple(row) for row in (FAST[name] + 1).tolist()]  # golden times count from 0
    plan = reference_fast_plan(task(9, (1, num_steps, 9)), skip)
    assert [(t, s + 1) for t, s, _ in rows(plan)] == expected
    by_steps = reference_fast_plan(task(9, (len(expected), num_steps, 9)))
    assert len(rows(by_steps)) == len(expected)


@pytest.mark.parametrize("num_steps", [100, 50, 25, 10])
@pytest.mark.parametrize("most", [1, 5, 10, 1024])
def test_reference_reveal_counts(num_steps: int, most: int) -> None:
    expected = load("reveal_counts_1024")[f"exp/T{num_steps}_ps{most}"].tolist()
    assert list(reference_reveals(num_steps, 1024, most)) == expected


@pytest.mark.parametrize("most", [1, 2, 5, 9, 1024])
def test_reference_reveal_calls(most: int) -> None:
    expected = load("reveal_passes_T100")[f"exp/ps{most}"].tolist()
    columns = rows(reference_reveal_plan(task(1024, (1, 100, 1024)), reference_reveals(100, 1024, most), most))
    assert [[t - 1, reveal] for t, _, reveal in columns[:-1]] == expected[:-1]
    assert columns[-1] == (1, 0, 1024)  # everything again


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 3000))
def test_reference_reveals_generalise(num_steps: int, num_tokens: int) -> None:
    reveals = reference_reveals(num_steps, num_tokens)
    assert len(reveals) == num_steps
    assert min(reveals) >= 0
    assert num_tokens <= sum(reveals) <= num_tokens + 1 + num_tokens // 1024
