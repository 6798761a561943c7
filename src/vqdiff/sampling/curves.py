"""Reveal curves: the share of the positions that is still masked after a part of the steps.

Linear reveals equal parts (Algorithms 1 and 2 of Improved VQ-Diffusion, arXiv 2205.16007); cosine and power are those
of MaskGIT (Chang et al. 2022, arXiv 2202.04200, section 3.3), arccos that of its reimplementations (Besnier and Chen
2023, arXiv 2310.14400). Measured is made for the model (`vqdiff.sampling.measured`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int
from vqdiff.plugins import CURVES
from vqdiff.sampling.measured import cheapest

__all__ = ["Curve", "remaining"]

Curve = Callable[[Tensor, float], Tensor]
"""(r, p) -> shares: which share is masked after the part r of the steps, falling from 1 at 0 to 0 at 1; p: a power."""


def linear(r: Float[Tensor, "S"], p: float) -> Float[Tensor, "S"]:
    """Reveal equally many positions in every step."""
    return 1 - r


def cosine(r: Float[Tensor, "S"], p: float) -> Float[Tensor, "S"]:
    """Reveal few positions in the first steps, most in the last: the share masked is cos(π r / 2)."""
    return (r * pi / 2).cos()


def arccos(r: Float[Tensor, "S"], p: float) -> Float[Tensor, "S"]:
    """Reveal almost equal parts, but many positions in the last steps: the share masked is 2/π · arccos r."""
    return r.arccos() * 2 / pi


def power(r: Float[Tensor, "S"], p: float) -> Float[Tensor, "S"]:
    """Reveal few positions first for p > 1, many first for p < 1: the share masked is 1 - r^p."""
    return 1 - r**p


def measured(r: Float[Tensor, "S"], p: float) -> Float[Tensor, "S"]:
    """Reveal as many as cost the least in all, by a measurement of the model: vqdiff measure-curve makes it."""
    raise InputError("the reveal curve measured is no function of the steps: it takes a measurement of the model")


for _curve in (linear, cosine, arccos, power, measured):
    CURVES.register(_curve.__name__, _curve, (_curve.__doc__ or "").strip())


def remaining(
    total: Int[Tensor, "B"],
    steps: Int[Tensor, "B"],
    curves: list[tuple[str, float]] | None = None,
    masked_nll: tuple[float, ...] = (),
    num_tokens: int = 0,
) -> Int[Tensor, "B S"]:
    """Spread `total` over `steps` along a curve: what is left before each step and at the end.

    No part is empty: if more than `total` steps are requested, there are `total`. curves: the name of each row's curve
    and its power; None and linear make parts that differ by at most one. masked_nll, num_tokens: the table that
    measured takes, and L.
    """
    steps = torch.minimum(steps, total).clamp(min=1)
    columns = torch.arange(int(steps.max()) + 1)
    done = torch.minimum(columns, steps[:, None])
    left = total[:, None] - done * total[:, None] // steps[:, None]
    for row, (name, p) in enumerate(curves or ()):
        if name != "linear":
            count, number = int(total[row]), int(steps[row])
            if name == "measured" and masked_nll:
                along = cheapest(count, number, masked_nll, num_tokens)
            else:
                along = _along(name, p, count, number)
            left[row] = torch.tensor([*along, *[0] * (len(columns) - len(along))])
    return left


def _along(name: str, p: float, total: int, steps: int) -> list[int]:
    """Return what is left before each of ``steps`` steps and at the end: the curve, rounded, with no empty part.

    Raises InputError for a curve that does not fall from 1 to 0.
    """
    shares = CURVES.get(name)(torch.arange(steps + 1, dtype=torch.float64) / steps, p)
    ends = torch.tensor([1.0, 0.0]).to(shares)
    if (
        shares.shape != (steps + 1,)
        or not (shares.diff() <= 1e-6).all()
        or not torch.allclose(shares[[0, -1]], ends, atol=1e-6)
    ):
        raise InputError(f"the reveal curve {name!r} does not fall from 1 to 0 over {steps} steps: correct it")
    left = [total]
    for step in range(1, steps):
        part = round(round(total * float(shares[step]), 9))  # the last bits of a cosine differ between processors
        left.append(max(min(part, left[-1] - 1), steps - step))
    return [*left, 0]
