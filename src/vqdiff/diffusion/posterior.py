"""The reverse process: p(x_s | x_t) = Σ_x0 q(x_s | x_t, x0) p(x0 | x_t) for any s < t: built, and sampled from.

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
"""The cases of a `Bridge`, one column each: x_t is MASK, a code other than x0, or x0 itself."""


class Bridge(NamedTuple):
    """q(x_s | x_t, x0) = w_x0·[x_s = x0] + w_xt·[x_s = x_t] + w_uniform·[x_s is a code], in closed form.

    Each weight has shape (B, 3), float64, with a column for each case: MASKED, DIFFERS and AGREES; the nine entries are
    derived in docs/equations.md, section 3. In every case w_x0 + w_xt + K·w_uniform = 1. Where x_t agrees with x0,
    the weight of both is `w_xt`, and `w_x0` is 0.
    """

    w_x0: Float[Tensor, "B 3"]
    w_xt: Float[Tensor, "B 3"]
    w_uniform: Float[Tensor, "B 3"]
    num_codes: int

    def draw(self, x0: Int[Tensor, "B L"], xt: Int[Tensor, "B L"], choice: Float[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Draw x_s by uniforms in [0, 1): x_t where they are below w_xt, any code below w_xt + K·w_uniform, else x0."""
        case = torch.where(xt == self.num_codes, MASKED, torch.where(x0 == xt, AGREES, DIFFERS))
        w_xt, w_uniform = self.w_xt.gather(1, case), self.w_uniform.gather(1, case)
        code = ((choice - w_xt) / w_uniform).long().clamp(0, self.num_codes - 1)  # uniform, given that it is used below
        xs = torch.where(choice < w_xt + self.num_codes * w_uniform, code, x0)
        return torch.where(choice < w_xt, xt, xs)

    def undecided(self, xt: Int[Tensor, "B L"], choice: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Return where `draw` with the same uniforms needs x0; elsewhere its result does not depend on x0.

        Among masked positions, these are the ones that leave MASK, which by Lemma 1 of arXiv 2205.16007 does not depend
        on x0: about L / T in a step from t to t - 1. Among visible ones, those that some x0 would change.
        """
        masked = self.w_xt[:, MASKED] + self.num_codes * self.w_uniform[:, MASKED]
        visible = torch.minimum(self.w_xt[:, DIFFERS], self.w_xt[:, AGREES])
        return choice >= torch.where(xt == self.num_codes, masked[:, None], visible[:, None])


def bridge(schedule: Schedule, t: Int[Tensor, "B"], s: Int[Tensor, "B"]) -> Bridge:
    """Return q(x_s | x_t, x0) = q(x_t | x_s) q(x_s | x0) / q(x_t | x0) for 0 <= s < t <= T (arXiv 2111.14822, Eq. 5).

    A masked position stays masked with probability gamma_bar[s] / gamma_bar[t], whatever x0 is (Lemma 1 of arXiv
    2205.16007). A visible one is never masked. Impossible cases are well defined: a visible token that cannot
    have been replaced stays, and MASK in a schedule that never masks is replaced by x0. For s = t < T, x_s is x_t.
    """
    K = schedule.num_codes
    alpha_bar_s, beta_bar_s, gamma_bar_s = schedule.marginal(s)
    alpha_bar_t, beta_bar_t, gamma_bar_t = schedule.marginal(t)
    alpha, beta, _ = schedule.kernel(s, t)

    # x_t is MASK. The kernel's gamma / gamma_bar_t, in which 1 - gamma_bar_s = alpha_bar_s + K·beta_bar_s.
    masked_xt = divide(gamma_bar_s, gamma_bar_t)
    unmasked = (1 - masked_xt) / (alpha_bar_s + K * beta_bar_s)
    masked_x0, masked_uniform = unmasked * alpha_bar_s, unmasked * beta_bar_s

    # x_t is a code other than x0: (alpha·[x_s = x_t] + beta)·(alpha_bar_s·[x_s = x0] + beta_bar_s) / beta_bar_t.
    differs_x0 = divide(beta * alpha_bar_s, beta_bar_t)
    differs_xt = divide(alpha * beta_bar_s, beta_bar_t, otherwise=1.0)
    differs_uniform = divide(beta * beta_bar_s, beta_bar_t)

    # x_t is x0: the same product over alpha_bar_t + beta_bar_t, and [x_s = x0] is [x_s = x_t].
    q_xt = alpha_bar_t + beta_bar_t
    agrees_x0 = torch.zeros_like(masked_xt)
    agrees_xt = divide(alpha * (alpha_bar_s + beta_bar_s) + beta * alpha_bar_s, q_xt, otherwise=1.0)
    agrees_uniform = divide(beta * beta_bar_s, q_xt)

    return Bridge(
        w_x0=torch.stack([masked_x0, differs_x0, agrees_x0], dim=1),
        w_xt=torch.stack([masked_xt, differs_xt, agrees_xt], dim=1),
        w_uniform=torch.stack([masked_uniform, differs_uniform, agrees_uniform], dim=1),
        num_codes=K,
    )


def posterior_log_probs(
    schedule: Schedule,
    log_p0: Float[Tensor, "B L K"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    s: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B L K+1"]:
    """Build log p(x_s | x_t) = log Σ_x0 q(x_s | x_t, x0) p(x0 | x_t), MASK last, -inf where impossible.

    To sample from it, `sample_posterior` is much cheaper.

    log_p0: normalised log p(x0 | x_t); -inf is allowed. xt: codes 0..K-1, or K where masked. t: 1..T. s: 0..t-1, by
    default t - 1. Computed in float64 and returned in the dtype of `log_p0`.

    Raises InputError if `log_p0` has another number of codes than the schedule.
    """
    check_prediction(schedule, log_p0, xt)
    w_x0, w_xt, w_uniform, _ = bridge(schedule, t, t - 1 if s is None else s)
    not_agrees, at_xt = torch.where(xt == schedule.num_codes, MASKED, DIFFERS), xt[..., None]
    x0_probs = F.pad(log_p0.double().exp(), (0, 1))  # x0 is never MASK
    p_agrees = x0_probs.gather(-1, at_xt)  # p(x0 = x_t | x_t), 0 where masked
    x0_probs = x0_probs.scatter(-1, at_xt, 0.0)  # of every x0 except x_t
    p_not_agrees = x0_probs.sum(-1, keepdim=True)

    def expected(w: Tensor) -> Tensor:
        """Average a weight over p(x0 | x_t): it depends only on whether x0 is x_t."""
        return w.gather(1, not_agrees)[..., None] * p_not_agrees + w[:, AGREES, None, None] * p_agrees

    xs_probs = w_x0.gather(1, not_agrees)[..., None] * x0_probs[..., :-1] + expected(w_uniform)
    return F.pad(xs_probs, (0, 1)).scatter_add(-1, at_xt, expected(w_xt)).log().to(log_p0.dtype)


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
    """Sample as `sample_posterior` does, as a pure function of uniforms in [0, 1), preferably float64.

    First x0 is drawn from p(x0 | x_t), then x_s from q(x_s | x_t, x0), which is a choice between x_t, any code, and
    x0 (docs/equations.md, section 5). Every position depends on its own inputs only, and the host never waits for the
    device.
    """
    check_prediction(schedule, log_p0, xt)
    choice, u = uniforms
    return bridge(schedule, t, s).draw(draw_categorical(log_p0, u), xt, choice)


def draw_categorical(log_p: Float[Tensor, "*rows K"], u: Float[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """Draw one class per row by inverting the cumulative distribution at u in [0, 1).

    log_p: log-probabilities, not too far from normalised. A class of probability 0 is never drawn. The sums are in
    float64, so that the probabilities are right for any number of classes.
    """
    cumulative = log_p.double().exp().cumsum(-1)
    level = u[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, level, right=True)[..., 0].clamp(max=log_p.shape[-1] - 1)


def check_prediction(schedule: Schedule, log_p0: Tensor, xt: Tensor) -> None:
    """Raise InputError unless there is one entry for each of the schedule's codes at every position."""
    if log_p0.shape != (*xt.shape, schedule.num_codes):
        raise InputError(
            f"a prediction of shape {tuple(log_p0.shape)} does not fit tokens of shape {tuple(xt.shape)} and a "
            f"schedule of {schedule.num_codes} codes: it needs one entry per code, codes last, and none for MASK"
        )
