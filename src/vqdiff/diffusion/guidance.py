"""What is done to a prediction before it is drawn from: guide, then truncate, then sharpen by purity.

Equation and algorithm numbers are those of Improved VQ-Diffusion (arXiv 2205.16007).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqdiff.diffusion.posterior import posterior_log_probs
from vqdiff.diffusion.schedule import Schedule
from vqdiff.shapes import Float, Int

__all__ = ["guide", "guide_posterior", "purity", "sharpen", "truncate"]

_PREFIX = 64


def guide(
    cond: Float[Tensor, "B L K"], null: Float[Tensor, "B L K"], scale: float | Float[Tensor, "B"]
) -> Float[Tensor, "B L K"]:
    """Guide without a classifier: log p ∝ null + scale·(cond - null), normalised (Eq. 7 with scale = s + 1).

    cond, null: logits or log-probabilities given the condition and the null condition. scale: one for all or one an
    image; 1 returns the normalised `cond`. -inf means a code of probability 0 and is followed to the limit: what both
    exclude stays excluded, and where a factor with a negative exponent is 0, only such codes remain.

    Returns log-probabilities in float32, or in float64 if the input is.
    """
    cond, null = _promoted(cond), _promoted(null)
    g = _per_image(scale, cond)
    by_cond, by_null = _times(g, cond), _times(1 - g, null)
    mixed = (by_cond + by_null).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    diverges = mixed == torch.inf
    limit = torch.where(diverges, torch.minimum(by_cond, by_null), -torch.inf)
    return torch.where(diverges.any(-1, keepdim=True), limit, mixed).log_softmax(-1)


def guide_posterior(
    schedule: Schedule,
    cond: Float[Tensor, "B L K"],
    null: Float[Tensor, "B L K"],
    scale: float | Float[Tensor, "B"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B L K+1"]:
    """Guide p(x_s | x_t) itself, as Eq. 7 is printed; the published code, and `guide`, act on p(x0 | x_t) instead.

    cond, null: logits or log-probabilities of x0. Returns log p(x_s | x_t), MASK last, to be drawn from with
    `draw_categorical`. The other arguments are those of `posterior_log_probs`.
    """
    by_cond, by_null = (posterior_log_probs(schedule, _promoted(x).log_softmax(-1), xt, t, s) for x in (cond, null))
    return guide(by_cond, by_null, scale)


def truncate(log_p0: Float[Tensor, "B L K"], rate: float | Float[Tensor, "B"]) -> Float[Tensor, "B L K"]:
    """Keep the smallest set of codes whose mass is at least `rate`, normalised; the others become -inf.

    rate: in (0, 1], one for all or one an image; 1 is off and changes nothing. At least one code is kept; of equally
    likely codes those with the lower number.
    """
    log_p0 = _promoted(log_p0)
    r = _per_image(rate, log_p0)
    off = r >= 1
    num_codes = log_p0.shape[-1]
    # Sorting all K codes is slow on a CPU, and mostly a few hold the mass. On other devices it is fast, and asking
    # whether a few suffice would make the host wait.
    size = min(_PREFIX, num_codes) if log_p0.device.type == "cpu" else num_codes
    top, mass = _head(log_p0, size)
    if size < num_codes and not bool(((mass[..., -1:] >= r) | off).all()):
        top, mass = _head(log_p0, num_codes)
    kept = (mass < r).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)  # index of the last one kept
    last = top.gather(-1, kept)
    tied = log_p0 == last
    room = kept + 1 - (top > last).sum(-1, keepdim=True)
    keep = (log_p0 > last) | (tied & (tied.cumsum(-1) <= room))
    truncated = torch.where(keep, log_p0 - mass.gather(-1, kept).log().to(log_p0.dtype), -torch.inf)
    return torch.where(off, log_p0, truncated)


def _head(log_p0: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the `size` largest entries in order, and their cumulative mass."""
    top = log_p0.topk(size).values
    return top, top.exp().cumsum(-1, dtype=torch.float64)


def purity(log_p0: Float[Tensor, "B L K"]) -> Float[Tensor, "B L"]:
    """Return the largest probability at each position (Eq. 8): how sure the network is of its best code."""
    return _promoted(log_p0).amax(-1).exp()


def sharpen(
    log_p0: Float[Tensor, "B L K"], purity: Float[Tensor, "B L"], r: float | Float[Tensor, "B"]
) -> Float[Tensor, "B L K"]:
    """Sharpen by purity: softmax((1 + r·purity)·log p0) (Eq. 11 and line 7 of Algorithm 2).

    r: the prior scale, >= 0, one for all or one an image; 0 is off.
    """
    log_p0 = _promoted(log_p0)
    return ((1 + _per_image(r, log_p0) * purity[..., None]) * log_p0).log_softmax(-1)


def _promoted(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_image(value: float | Tensor, like: Tensor) -> Tensor:
    """Return one value an image, or one for all, ready to be broadcast with (B, L, K)."""
    if isinstance(value, Tensor):
        return value.to(like)[:, None, None]
    return torch.full((1, 1, 1), value, dtype=like.dtype, device=like.device)


def _times(weight: Tensor, x: Tensor) -> Tensor:
    return torch.where(weight == 0, 0.0, weight * x)  # 0 · -inf = 0
