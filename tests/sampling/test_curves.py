"""Reveal curves against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqdiff.foundation.errors import InputError
from vqdiff.plugins import CURVES
from vqdiff.sampling import SamplingSettings
from vqdiff.sampling.curves import remaining

TABLE = (1.0, 1.1, 2.0, 2.5)


def left(total: int, steps: int, name: str, p: float = 2.0) -> list[int]:
    return remaining(torch.tensor([total]), torch.tensor([steps]), [(name, p)], TABLE, 400)[0].tolist()


@pytest.mark.parametrize(
    ("name", "p", "counts"),
    [
        ("linear", 2.0, [120, 90, 60, 30, 0]),
        ("cosine", 2.0, [120, 111, 85, 46, 0]),  # 120 times cos 22.5°, 45°, 67.5°
        ("arccos", 2.0, [120, 101, 80, 55, 0]),  # 120 times 2/π · arccos(1/4, 1/2, 3/4); the second is 2/3
        ("power", 2.0, [120, 112, 90, 52, 0]),  # 120 times 15/16, 12/16, 7/16, which is 52.5
        ("power", 1.0, [120, 90, 60, 30, 0]),
        ("power", 0.5, [120, 60, 35, 16, 0]),
    ],
)
def test_counts(name: str, p: float, counts: list[int]) -> None:
    assert left(120, 4, name, p) == counts


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 400), st.sampled_from(CURVES.names()), st.floats(0.01, 50)),
        min_size=1,
        max_size=4,
    )
)
def test_every_step_reveals_something_whatever_the_batch(rows: list[tuple[int, int, str, float]]) -> None:
    totals, steps, names, powers = zip(*rows, strict=True)
    table = remaining(torch.tensor(totals), torch.tensor(steps), list(zip(names, powers, strict=True)), TABLE, 400)
    for own, total, number, name, p in zip(table.tolist(), totals, steps, names, powers, strict=True):
        taken = min(number, total)
        assert own[0] == total
        assert all(before > after for before, after in pairwise(own[: taken + 1]))
        assert not any(own[taken:]) or total == 0
        assert own[: taken + 1] == left(total, number, name, p)[: taken + 1]


def test_an_unknown_curve_is_an_error() -> None:
    with pytest.raises(InputError, match="unknown reveal curve 'cosin': did you mean 'cosine'"):
        SamplingSettings(curve="cosin")
    with pytest.raises(InputError, match="curve_power is 0: it must be above 0"):
        SamplingSettings(curve_power=0.0)


@pytest.mark.parametrize(
    "curve", [lambda r, p: 0 * r + torch.nan, lambda r, p: 1 - r[:-1], lambda r, p: r, lambda r, p: 1 - 2 * (r - r**2)]
)
def test_a_curve_must_fall_from_one_to_zero(curve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CURVES, "get", lambda name: curve)
    with pytest.raises(InputError, match="the reveal curve 'mine' does not fall from 1 to 0 over 4 steps"):
        remaining(torch.tensor([64]), torch.tensor([4]), [("mine", 1.0)])
