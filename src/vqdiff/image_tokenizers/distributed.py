"""Sums and means over the processes that train together; the identity in a single process."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def all_sum(value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes; no gradient flows through it."""
    value = value.detach()
    if _together():
        value = value.clone()
        distributed.all_reduce(value)
    return value


def all_mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over all processes; no gradient flows through it."""
    return all_sum(value) / (distributed.get_world_size() if _together() else 1)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes, which all have the same number of rows."""
    if not _together():
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
