"""The reverse process: p(x_s | x_t) = Σ_x0 q(x_s | x_t, x0) p(x0 | x_t) for any s < t, built and drawn from.

This is Eq. 11 of VQ-Diffusion (arXiv 2111.14822), and its Eq. 13 for strides.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqdiff.diffusion.numerics import divide
from vqdiff.diffusion.schedule import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int

__all__ = [
    "Bridge",
    "bridge",
    "draw_categorical",
    "draw_posterior",
    "posterior_log_probs",
    "sample_posterior",
]

MASKED, DIFFERS, AGREES = range(3)


class Bridge(NamedTuple):
    """q(x_s | x_t, x0) in closed form: x_s is x0, or x_t, or any of the K codes with equal probability.

    Each (B, 3), float64; take + hold + K·spread = 1 in every column. Column MASKED: x_t is MASK. DIFFERS: it is a code
    other than x0. AGREES: it is x0 itself, for which `hold` stands and `take` is 0.

    take: probability of x0. hold: of x_t. spread: of each code.
    """

    take: Float[Tensor, "B 3"]
    hold: Float[Tensor, "B 3"]
    spread: Float[Tensor, "B 3"]
    num_codes: int

    def draw(self, x0: Int[Tensor, "B L"], xt: Int[Tensor, "B L"], choice: Float[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Draw x_s by uniforms in [0, 1)."""
        case = torch.where(xt == self.num_codes, MASKED, torch.where(x0 == xt, AGREES, DIFFERS))
        hold, spread = self.hold.gather(1, case), self.spread.gather(1, case)
        code = ((choice - hold) / spread).long().clamp(0, self.num_codes - 1)  # uniform, given that it is used below
        xs = torch.where(choice < hold + self.num_codes * spread, code, x0)
        return torch.where(choice < hold, xt, xs)

    def undecided(self, xt: Int[Tensor, "B L"], choice: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Tell where `draw` with the same uniforms needs x0; elsewhere it returns the same whatever x0 is.

        Of masked positions these are those that leave MASK, which Lemma 1 of arXiv 2205.16007 leaves to chance alone:
        about L / T in a step of one time. Of visible ones they are those that not every x0 lets stay.
        """
        masked = self.hold[:, MASKED] + self.num_codes * self.spread[:, MASKED]
        visible = torch.minimum(self.hold[:, DIFFERS], self.hold[:, AGREES])
        return choice >= torch.where(xt == self.num_codes, masked[:, None], visible[:, None])


def bridge(schedule: Schedule, t: Int[Tensor, "B"], s: Int[Tensor, "B"]) -> Bridge:
    """Return q(x_s | x_t, x0) ∝ q(x_t | x_s) q(x_s | x_0) for 0 <= s < t <= T (arXiv 2111.14822, Eq. 5).

    A masked position stays masked with probability gamma_bar[s] / gamma_bar[t], whatever x0 is (Lemma 1 of arXiv
    2205.16007). A visible one is never masked. What the schedule makes impossible is left as it is: a visible token
    that cannot have been replaced stays, and MASK where nothing is ever masked gives way to x0.
    """
    alpha_s, beta_s, gamma_s = schedule.marginal(s)
    alpha_t, beta_t, gamma_t = schedule.marginal(t)
    alpha, beta, _ = schedule.kernel(s, t)
    stay = divide(gamma_s, gamma_t)
    leave = (1 - stay) / (alpha_s + schedule.num_codes * beta_s)  # divided by the probability to be visible at s
    same_t = alpha_t + beta_t  # q(x_t | x0) where the two agree; beta_t where they differ

    def columns(masked: Tensor, differs: Tensor, agrees: Tensor) -> Tensor:
        return torch.stack([masked, differs, agrees], dim=1)

    return Bridge(
        take=columns(leave * alpha_s, divide(beta * alpha_s, beta_t), torch.zeros_like(stay)),
        hold=columns(
            stay,
            divide(alpha * beta_s, beta_t, otherwise=1.0),
            divide(alpha * (alpha_s + beta_s) + beta * alpha_s, same_t, otherwise=1.0),
        ),
        spread=columns(leave * beta_s, divide(beta * beta_s, beta_t), divide(beta * beta_s, same_t)),
        num_codes=schedule.num_codes,
    )


def posterior_log_probs(
    schedule: Schedule,
    log_p0: Float[Tensor, "B L K"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B L K+1"]:
    """Build log p(x_s | x_t), MASK last, -inf where impossible. To sample from it, `sample_posterior` is much cheaper.

    log_p0: normalised log p(x0 | x_t); -inf is allowed. xt: codes 0..K-1, or K where masked. t: 1..T. s: 0..t-1, by
    default t - 1. Computed in float64 and returned in the dtype of `log_p0`.

    Raises InputError if `log_p0` has another number of codes than the schedule.
    """
    check_prediction(schedule, log_p0, xt)
    take, hold, spread, _ = bridge(schedule, t, t - 1 if s is None else s)
    other, at_xt = torch.where(xt == schedule.num_codes, MASKED, DIFFERS), xt[..., None]
    p = F.pad(log_p0.double().exp(), (0, 1))
    agreeing = p.gather(-1, at_xt)  # 0 where masked
    differing = p.scatter(-1, at_xt, 0.0)
    rest = differing.sum(-1, keepdim=True)

    def expected(weight: Tensor) -> Tensor:
        return weight.gather(1, other)[..., None] * rest + weight[:, AGREES, None, None] * agreeing

    codes = take.gather(1, other)[..., None] * differing[..., :-1] + expected(spread)
    return F.pad(codes, (0, 1)).scatter_add(-1, at_xt, expected(hold)).log().to(log_p0.dtype)


def sample_posterior(
    schedule: Schedule,
    log_p0: Float[Tensor, "B L K"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B L"]:
    """Draw x_s from p(x_s | x_t) exactly, without building it. Arguments as for `posterior_log_probs`."""
    u = torch.rand((2, *xt.shape), generator=generator, dtype=torch.float64, device=xt.device)
    return draw_posterior(schedule, log_p0, xt, t, t - 1 if s is None else s, u)


def draw_posterior(
    schedule: Schedule,
    log_p0: Float[Tensor, "B L K"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"],
    uniforms: Float[Tensor, "2 B L"],
) -> Int[Tensor, "B L"]:
    """Do what `sample_posterior` does with given uniforms in [0, 1), best in float64: the draw as a pure function.

    First x0 is drawn from p(x0 | x_t), then x_s from q(x_s | x_t, x0), which takes nothing but a choice between x_t,
    any code, and x0. Every position depends on its own inputs only, and the device is never waited for.
    """
    check_prediction(schedule, log_p0, xt)
    choice, u = uniforms
    return bridge(schedule, t, s).draw(draw_categorical(log_p0, u), xt, choice)


def draw_categorical(log_p: Float[Tensor, "*rows K"], u: Float[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """Draw one class a row by inverting the cumulative distribution at u in [0, 1).

    log_p: log-probabilities, not too far from normalised. A class of probability 0 is never drawn. The sums are in
    float64, so that the chances are right for any number of classes.
    """
    cumulative = log_p.double().exp().cumsum(-1)
    level = u[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, level, right=True)[..., 0].clamp(max=log_p.shape[-1] - 1)


def check_prediction(schedule: Schedule, log_p0: Tensor, xt: Tensor) -> None:
    """Raise InputError unless there is one entry for each of the schedule's codes at every position."""
    if log_p0.shape != (*xt.shape, schedule.num_codes):
        raise InputError(
            f"a prediction of shape {tuple(log_p0.shape)} does not fit tokens of shape {tuple(xt.shape)} and a "
            f"schedule of {schedule.num_codes} codes: it needs one entry a code, codes last, and none for MASK"
        )
