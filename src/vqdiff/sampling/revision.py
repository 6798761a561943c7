"""Find the tokens of a finished image to resample."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Int
from vqdiff.sampling.loop import Denoise

__all__ = ["least_confident"]


@torch.no_grad()
def least_confident(
    denoise: Denoise, schedule: Schedule, tokens: Int[Tensor, "B L"], share: float
) -> Bool[Tensor, "B L"]:
    """Find the `share` of the tokens that the network finds least likely: p(x0 = x_t | x_t) at t = share·T, one call.

    Training with replace noise teaches that a visible token may be wrong. Masks alone do not: then only an auxiliary
    loss on visible tokens makes the network's predictions for them informative.

    Raises InputError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}: give a number from 0 (nothing) to 1 (everything)")
    t = torch.full((len(tokens),), max(1, ceil(share * schedule.num_steps)), device=tokens.device)
    believed = denoise(tokens, t).float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    least = believed.argsort(dim=1, stable=True)[:, : round(share * tokens.shape[1])]
    return torch.zeros_like(tokens, dtype=torch.bool).scatter(1, least, value=True)
