"""Estimates from several runs, and whether two of them differ."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from vqdiff.foundation.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """Mean and sample standard deviation (n - 1; None for n = 1) of n runs, and the value of each run."""

    mean: float
    std: float | None
    n: int
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Format with three digits of the larger of the two, and more if the deviation would be 0."""
        spread = self.std or 0.0
        decimals = max(2 - _magnitude(max(abs(self.mean), spread)), -_magnitude(spread), 0)
        shown = f"{self.mean:.{min(decimals, 6)}f}"
        return shown if self.std is None else f"{shown} ± {self.std:.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else 0


def summary(values: Sequence[float]) -> Estimate:
    """The estimate from the values of several runs.

    Raises InputError if there is no value, or one that is not finite.
    """
    if not values:
        raise InputError("no values to summarise: give at least one")
    if strange := [value for value in values if not math.isfinite(value)]:
        raise InputError(f"cannot summarise the value {strange[0]}: look for constant or broken features")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), std, len(values), tuple(values))


def differ(a: Estimate, b: Estimate) -> bool | None:
    """Whether two estimates differ beyond their error: a t-test (p < 0.05) of run against run with the same seeds.

    None unless both have the same number of runs, at least two.
    """
    from scipy.stats import ttest_rel

    if len(a.values) != len(b.values) or len(a.values) < 2:
        return None
    if a.values == b.values:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all equal
        return bool(ttest_rel(a.values, b.values).pvalue < 0.05)
