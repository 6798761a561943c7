"""The measured reveal curve: as many positions in each step as cost the least, by a measurement of the model.

docs/equations.md, section 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf, isfinite
from typing import Any, cast

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float

__all__ = ["cheapest", "checked_masked_nll", "nats", "token_nll"]

_UNIT = 1e-9
"""Nats. Costs are whole multiples of it, so that sums are exact, and equal costs equal on every processor."""
_ROWS = 64


def checked_masked_nll(given: Any, where: str) -> tuple[float, ...]:
    """Return a table of `Model.masked_nll`, found ``where``; raises InputError unless it is two or more rising numbers.

    None stands for none, an empty table.
    """
    if given is None:
        return ()
    values = cast("Sequence[object]", given) if isinstance(given, list | tuple) else ()
    table = tuple(float(one) for one in values if isinstance(one, int | float))
    table = table if len(table) == len(values) else ()
    if len(table) < 2 or not all(isfinite(one) and one >= 0 for one in table) or list(table) != sorted(table):
        raise InputError(f"{where}: masked_nll must be two or more numbers of at least 0, none below the one before it")
    return table


def token_nll(masked_nll: Sequence[float], num_tokens: int) -> Float[Tensor, "{num_tokens}+1"]:
    """Interpolate a table of `Model.masked_nll`: the nats of a masked token where 0, 1, …, L of L tokens are masked."""
    table = torch.tensor(masked_nll, dtype=torch.float64)
    place = torch.arange(num_tokens + 1, dtype=torch.float64) * (len(table) - 1) / num_tokens
    below = place.long().clamp(max=len(table) - 2)
    return table[below] + (place - below) * (table[below + 1] - table[below])


def nats(left: Sequence[int], masked_nll: Sequence[float], num_tokens: int) -> float:
    """Return the cost of steps that leave so many of L positions masked: Σ (M_i − M_{i+1}) h(M_i / L), in nats.

    left: falling, before each step and at the end, as from `vqdiff.sampling.curves.remaining`.
    """
    h, counts = token_nll(masked_nll, num_tokens), torch.tensor(left)
    return float(((counts[:-1] - counts[1:]) * h[counts[:-1]]).sum())


@lru_cache(maxsize=256)
def cheapest(total: int, steps: int, masked_nll: tuple[float, ...], num_tokens: int) -> tuple[int, ...]:
    """Return what is left of `total` masked positions before each of `steps` steps and at the end, at the least cost.

    The cost is `nats`, found exactly; every step, of 1..total, reveals at least one. Where h is flat, and the cost the
    same for all parts, they are nearly equal.
    """
    m = torch.arange(total + 1, dtype=torch.float64)
    h = (token_nll(masked_nll, num_tokens)[: total + 1] / _UNIT).round() + m  # rising a little where it is flat
    # The cost of a step, a row for each number of masked positions before it, a column for each after it; in blocks of
    # rows that stay in the processor's cache.
    blocks = list[Tensor]()
    for first in range(0, total + 1, _ROWS):
        end = first + _ROWS
        before, after = m[first:end, None], m[:end]
        blocks.append(((before - after) * h[first:end, None]).masked_fill_(after >= before, inf))
    ways = [m.new_full((total + 1,), inf).index_fill_(0, torch.tensor([0]), 0)]
    for _ in range(steps):
        ways.append(torch.cat([(block + ways[-1][: block.shape[1]]).amin(1) for block in blocks]))
    cuts = [total]
    for way in reversed(ways[:-1]):
        block = blocks[cuts[-1] // _ROWS]
        costs = block[cuts[-1] % _ROWS] + way[: block.shape[1]]
        cuts.append(int((costs == costs.min()).nonzero()[0]))
    return tuple(cuts)
