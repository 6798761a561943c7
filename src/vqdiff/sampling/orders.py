"""The orders in which masked positions are filled: an order scores every position, and the highest score goes first.

Algorithms 1 and 2 are those of Improved VQ-Diffusion (arXiv 2205.16007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from vqdiff.foundation.shapes import Float
from vqdiff.plugins import ORDERS

__all__ = ["Order", "by_confidence", "by_halton", "by_purity", "by_random", "needs_purity", "without_purity"]

Order = Callable[[Tensor, Tensor], Tensor]
"""(purity (B, L), uniforms (B, L)) -> scores (B, L)."""


def without_purity(order: Order) -> Order:
    """Declare that an order does not look at purity: which positions go first is known before the network is evaluated.

    Then the network's head is evaluated at these alone. A decorator; the order gets uniforms in place of the purity.
    """
    setattr(order, _WITHOUT, True)
    return order


def needs_purity(order: Order) -> bool:
    """Return whether an order must wait for the prediction."""
    return not getattr(order, _WITHOUT, False)


_WITHOUT = "without_purity"


@without_purity
def by_random(purity: Float[Tensor, "B L"], u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Every subset is equally likely (Algorithm 1)."""
    return u


def by_purity(purity: Float[Tensor, "B L"], u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Draw without replacement with weights ∝ purity (Algorithm 2).

    An exponential race: the first n of independent arrivals with rates w are distributed as n draws without
    replacement with weights w, so that one sort replaces a loop of draws.
    """
    return u.log() / purity


def by_confidence(purity: Float[Tensor, "B L"], u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Take the positions of the highest purity, deterministically; of equals, the first."""
    return purity


@without_purity
def by_halton(purity: Float[Tensor, "B L"], u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Take positions far apart: the two-dimensional Halton sequence over the grid (Besnier et al. 2025)."""
    return _halton_scores(u.shape[1], u.device).expand_as(u)


for _name, _order in {"purity": by_purity, "confidence": by_confidence, "halton": by_halton}.items():
    ORDERS.register(_name, _order)


@lru_cache(maxsize=16)
def _halton_scores(num_tokens: int, device: torch.device) -> Float[Tensor, "L"]:
    """Score the cells of the squarest grid of `num_tokens`, row by row, by when the sequence first visits them."""
    height = next(rows for rows in range(isqrt(num_tokens), 0, -1) if num_tokens % rows == 0)
    width = num_tokens // height
    met: dict[int, int] = {}
    for y, x in zip(_van_der_corput(2), _van_der_corput(3), strict=True):
        met.setdefault(int(y * height) * width + int(x * width), len(met))
        if len(met) == num_tokens:
            break
    return -torch.tensor([met[cell] for cell in range(num_tokens)], dtype=torch.float64, device=device)


def _van_der_corput(base: int) -> Iterator[float]:
    """Yield the digits of 1, 2, 3, … in `base`, mirrored at the point: an even covering of (0, 1)."""
    number = 0
    while True:
        number += 1
        rest, value, weight = number, 0.0, 1.0
        while rest:
            weight /= base
            value += rest % base * weight
            rest //= base
        yield value
