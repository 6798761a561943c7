"""Best of n: the seeds of an image's candidates, how good each is, and which of them go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Int
from vqdiff.sampling.orders import by_halton
from vqdiff.sampling.plan import masked_step
from vqdiff.sampling.prediction import Denoise, predict
from vqdiff.settings import SamplingSettings

__all__ = ["RANKING_CALLS", "agreement", "best", "candidate_seeds", "likelihood", "network_calls", "rungs"]

RANKING_CALLS = 2
"""Network calls that `likelihood` and `agreement` make, by default."""
_STRIDE = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio: the first n multiples are as far from each other, modulo 2⁶⁴, as n numbers can be,
except for a small factor."""


def candidate_seeds(seeds: Sequence[int], best_of: int) -> list[int]:
    """Return a seed for each candidate of each image, image by image; the first of an image has the image's own seed.

    The seeds of up to 2^50 images with successive seeds and up to 1,000 candidates each are all different.
    """
    return [(seed + one * _STRIDE) % 2**64 if one else seed for seed in seeds for one in range(best_of)]


def rungs(settings: SamplingSettings, steps: int) -> dict[int, int]:
    """Return after which of an image's steps candidates leave, and how many are left then; empty without pruning.

    After a quarter of the steps half of them leave, and after half of the steps half of the rest; an odd one stays.
    """
    found, left = dict[int, int](), settings.best_of
    for step in (math.ceil(steps / 4), math.ceil(steps / 2)) if settings.prunes else ():
        if 0 < step < steps and left > 1:
            left = found[step] = (left + 1) // 2
    return found


def network_calls(settings: SamplingSettings, steps: int) -> int:
    """Return the network calls for one image of so many steps: those of all candidates, and those that rank them."""
    left, calls, fewer = settings.best_of, 0, rungs(settings, steps)
    for step in range(steps):
        if step in fewer:
            calls += left * RANKING_CALLS
            left = fewer[step]
        calls += left
    if left > 1 and settings.ranking != "scorer":
        calls += left * RANKING_CALLS
    return calls


def best(scores: Sequence[float], count: int = 1) -> list[int]:
    """Return the numbers of the `count` highest scores, in their order; of equal scores, the first."""
    return sorted(sorted(range(len(scores)), key=lambda one: -scores[one])[:count])


def likelihood(
    denoise: Denoise, schedule: Schedule, tokens: Int[Tensor, "B L"], calls: int = RANKING_CALLS
) -> list[float]:
    """Estimate how likely each image is given its condition: log p(x0 | y), in nats per token.

    The positions are divided into as many parts as there are `calls`, each spread evenly over the image. Each part is
    masked in turn, and contributes log p(x0_i | x_t, y) at its positions i, where x_t is the image with the part
    masked. With as many calls as tokens, this is the pseudo-likelihood.

    tokens: codes 0..K-1, or K where not yet revealed; the mean is over the revealed ones, 0 without any. denoise: as in
    a step in which no image is guided. calls: 1..L.

    Raises InputError for a schedule without masks.
    """
    return _mean_log(denoise, schedule, tokens, calls, against_null=False)


def agreement(
    denoise: Denoise, schedule: Schedule, tokens: Int[Tensor, "B L"], calls: int = RANKING_CALLS
) -> list[float]:
    """Estimate how much more likely the condition makes each image: log p(x0 | y) − log p(x0 | ∅), in nats per token.

    As `likelihood`, but with log p(x0_i | x_t, y) − log p(x0_i | x_t, ∅). With as many calls as tokens, this is the
    ratio of the pseudo-likelihoods. denoise: as in a step in which all images are guided (2B rows, the last B under the
    null condition).
    """
    return _mean_log(denoise, schedule, tokens, calls, against_null=True)


@torch.no_grad()
def _mean_log(
    denoise: Denoise, schedule: Schedule, tokens: Int[Tensor, "B L"], calls: int, *, against_null: bool
) -> list[float]:
    if schedule.gamma_bar_ends[1] == 0:
        raise InputError("this schedule has no masks (gamma_bar is 0), which the likelihood of an image needs")
    mask, (images, num_tokens) = schedule.num_codes, tokens.shape
    revealed, scale = tokens != mask, torch.ones(images, device=tokens.device) if against_null else None
    u = torch.zeros(1, num_tokens, dtype=torch.float64, device=tokens.device)
    order = by_halton(u, u)[0].argsort(descending=True)
    logs = torch.zeros(images, num_tokens, dtype=torch.float64, device=tokens.device)
    for begin, end in pairwise(num_tokens * part // calls for part in range(calls + 1)):
        part = order[begin:end].expand(images, -1)
        seen = tokens.scatter(1, part, mask)
        t = masked_step(schedule, (seen == mask).double().mean(1))
        codes = (tokens * revealed).gather(1, part)[..., None]
        pair = predict(denoise, seen, t, scale).pair(part)
        cond, null = (one.float().log_softmax(-1).gather(-1, codes)[..., 0].double() for one in pair)
        logs.scatter_(1, part, cond - null if against_null else cond)
    # A token that neither allows says nothing; the others are bounded, so that their sum is a number.
    logs = (logs.nan_to_num(nan=0.0, posinf=_CERTAIN, neginf=-_CERTAIN) * revealed).cpu()
    # Summed exactly: the score of an image must not depend on the others by rounding.
    return [math.fsum(row) / max(1, int(count)) for row, count in zip(logs, revealed.sum(1), strict=True)]


_CERTAIN = 1e6
