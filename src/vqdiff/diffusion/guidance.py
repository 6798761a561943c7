"""Transform a prediction before tokens are sampled from it: guide, apply a temperature, truncate, sharpen by purity.

Equation and algorithm numbers are those of Improved VQ-Diffusion (arXiv 2205.16007); truncation is VQ-Diffusion's
(arXiv 2111.14822). The formulas are in docs/equations.md, sections 7 to 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqdiff.diffusion.numerics import promoted
from vqdiff.diffusion.posterior import posterior_log_probs
from vqdiff.diffusion.schedule import Schedule
from vqdiff.foundation.shapes import Float, Int

__all__ = ["guide", "guide_posterior", "purity", "sharpen", "temper", "truncate"]

_PREFIX = 64
"""Codes that `truncate` looks at before it sorts them all."""


def guide(
    cond: Float[Tensor, "B L K"], null: Float[Tensor, "B L K"], scale: float | Float[Tensor, "B"]
) -> Float[Tensor, "B L K"]:
    """Guide without a classifier: log p ∝ null + scale·(cond - null), normalised (Improved VQ-Diffusion, Eq. 7).

    cond, null: logits or log-probabilities given the condition and the null condition. scale: s + 1 for the paper's s,
    one for all or one per image; 1 returns the normalised `cond`. -inf means a code of probability 0 and is treated as
    the limit: codes that both exclude stay excluded, and where a factor with a negative exponent is 0, only such codes
    remain.

    Returns log-probabilities in float32, or in float64 if the input is.
    """
    dtype = torch.promote_types(promoted(cond[:0]).dtype, promoted(null[:0]).dtype)
    g = _per_image(scale, cond[:0].to(dtype))
    if not cond.is_cpu:
        return _guide(cond.to(dtype), null.to(dtype), g)
    images = zip(cond, null, g.expand(len(cond), 1, 1), strict=True)  # one by one: an image fits the cache
    guided = [_guide(log_cond.to(dtype), log_null.to(dtype), own) for log_cond, log_null, own in images]
    return torch.stack(guided) if guided else cond.to(dtype)


def _guide(cond: Tensor, null: Tensor, g: Tensor) -> Tensor:
    log_p = torch.lerp(null, cond, g).log_softmax(-1)  # null + g·(cond - null)
    if log_p.is_cpu and not log_p.amax(-1).isnan().any():  # elsewhere, testing for ∞ - ∞ would make the host wait
        return log_p
    return _limit_at_zeros(cond, null, g)


def _limit_at_zeros(cond: Tensor, null: Tensor, g: Tensor) -> Tensor:
    """Guide where probabilities may be 0: p ∝ cond^g·null^(1 - g), with 0^0 = 1, and as the limit where 1/0 appears."""
    by_cond, by_null = _times(g, cond), _times(1 - g, null)
    mixed = (by_cond + by_null).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    diverges = mixed == torch.inf
    limit = torch.where(diverges, torch.minimum(by_cond, by_null), -torch.inf)
    return torch.where(diverges.any(-1, keepdim=True), limit, mixed).log_softmax(-1)


def _times(weight: Tensor, x: Tensor) -> Tensor:
    return torch.where(weight == 0, 0.0, weight * x)  # 0 · -inf = 0


def guide_posterior(
    schedule: Schedule,
    cond: Float[Tensor, "B L K"],
    null: Float[Tensor, "B L K"],
    scale: float | Float[Tensor, "B"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B L K+1"]:
    """Guide p(x_s | x_t) itself, as Improved VQ-Diffusion prints Eq. 7.

    The published code, and `guide`, act on p(x0 | x_t) instead.

    cond, null: logits or log-probabilities of x0. Returns log p(x_s | x_t), MASK last, to sample from with
    `draw_categorical`. The other arguments are those of `posterior_log_probs`.

    It has many zeros: a visible token never becomes MASK, with or without the condition.
    """
    by_cond, by_null = (posterior_log_probs(schedule, promoted(x).log_softmax(-1), xt, t, s) for x in (cond, null))
    return guide(by_cond, by_null, scale)


def temper(log_p0: Float[Tensor, "B L K"], temperature: float | Float[Tensor, "B"]) -> Float[Tensor, "B L K"]:
    """Apply a temperature: softmax(log p0 / temperature).

    temperature: > 0, one for all or one per image; 1 is off, and towards 0 only the most likely code remains. A code of
    probability 0 keeps it.

    Returns log-probabilities in float32, or in float64 if the input is.
    """
    log_p0 = promoted(log_p0)
    tau = _per_image(temperature, log_p0)
    tempered = ((log_p0 - log_p0.amax(-1, keepdim=True)) / tau).log_softmax(-1)  # the best is 0 / tau, not -inf
    return torch.where(tau == 1, log_p0, tempered)


def truncate(log_p0: Float[Tensor, "B L K"], rate: float | Float[Tensor, "B"]) -> Float[Tensor, "B L K"]:
    """Keep the smallest set of codes whose mass is at least `rate`, normalised; the others become -inf.

    rate: in (0, 1], one for all or one per image; 1 is off and changes nothing. At least one code is kept; of equally
    likely codes, those with the lowest numbers.
    """
    log_p0 = promoted(log_p0)
    r = _per_image(rate, log_p0)
    off = r >= 1
    if log_p0.is_cpu and off.all():
        return log_p0
    floor, ties, mass = _nucleus(log_p0, r, off)
    tied = log_p0 == floor
    kept = (log_p0 > floor) | (tied & (tied.cumsum(-1) <= ties))
    truncated = torch.where(kept, log_p0 - mass.log().to(log_p0.dtype), -torch.inf)
    return torch.where(off, log_p0, truncated)


def _nucleus(log_p0: Tensor, r: Tensor, off: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the smallest set of codes with mass r in each row.

    Returns, with a last dimension of 1: its smallest log-probability, how many codes of just that value belong to it,
    and its mass.
    """
    num_codes = log_p0.shape[-1]
    if not log_p0.is_cpu:  # other devices sort fast, and the test below would make the host wait
        return _nucleus_among(log_p0, r, num_codes)[:3]
    # Sorting all codes is slow on a CPU, and a few usually hold the mass: look at these first.
    floor, ties, mass, found = _nucleus_among(log_p0, r, min(_PREFIX, num_codes))
    if (short := ~(found | off)[..., 0]).any():
        rates = r.expand(*log_p0.shape[:-1], 1)[short]
        floor[short], ties[short], mass[short], _ = _nucleus_among(log_p0[short], rates, num_codes)
    return floor, ties, mass


def _nucleus_among(log_p0: Tensor, r: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_nucleus`, among the `size` most likely codes of each row; also returns whether their mass is enough."""
    top = log_p0.topk(size).values
    mass = top.exp().double().cumsum(-1)
    last = (mass < r).sum(-1, keepdim=True)
    found = last < size
    last = last.clamp(max=size - 1)
    floor = top.gather(-1, last)
    ties = last + 1 - (top > floor).sum(-1, keepdim=True)
    return floor, ties, mass.gather(-1, last), found


def purity(log_p0: Float[Tensor, "B L K"]) -> Float[Tensor, "B L"]:
    """Return purity, max_k p(x0 = k | x_t), at each position (Improved VQ-Diffusion, Eq. 8).

    In (0, 1]: how confident the network is in its best code.
    """
    return promoted(log_p0).amax(-1).exp()


def sharpen(
    log_p0: Float[Tensor, "B L K"], purity: Float[Tensor, "B L"], r: float | Float[Tensor, "B"]
) -> Float[Tensor, "B L K"]:
    """Sharpen by purity: softmax((1 + r·purity)·log p0) (Improved VQ-Diffusion, Eq. 11).

    Line 7 of its Algorithm 2.

    r: the prior scale, >= 0, one for all or one per image; 0 is off.
    """
    log_p0 = promoted(log_p0)
    return ((1 + _per_image(r, log_p0) * purity[..., None]) * log_p0).log_softmax(-1)


def _per_image(value: float | Tensor, like: Tensor) -> Tensor:
    """Return one value per image, or one for all, in a shape that broadcasts with (B, L, K)."""
    if isinstance(value, Tensor):
        return value.to(like)[:, None, None]
    return torch.full((1, 1, 1), value, dtype=like.dtype, device=like.device)
