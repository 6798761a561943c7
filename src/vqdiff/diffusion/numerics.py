"""Floating-point arithmetic in edge cases."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["divide", "promoted"]


def divide(x: Tensor, y: Tensor, otherwise: float = 0.0) -> Tensor:
    """Return x / y, and `otherwise` where y is 0."""
    return torch.where(y > 0, x / y, otherwise)


def promoted(x: Tensor) -> Tensor:
    """Return x in float32 or better: log-probabilities in half precision would not even sum to 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
