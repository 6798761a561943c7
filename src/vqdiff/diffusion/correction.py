"""Correct a noisy image at a fixed time: the distribution of one token of x_t given all others, in closed form.

A network that predicts p(x0 | x_t) at every position knows q(x_t) up to a factor: redrawing one position from its
conditional is a step of a Gibbs sampler, which keeps q(x_t) exactly. Campbell et al. 2022 (arXiv 2205.14987) correct
with rates instead. The derivation is in docs/equations.md, section 12.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vqdiff.diffusion.numerics import promoted
from vqdiff.diffusion.posterior import check_prediction
from vqdiff.diffusion.schedule import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int

__all__ = ["leave_one_out", "token_log_probs"]


def leave_one_out(
    schedule: Schedule, log_p0: Float[Tensor, "B L K"], xt: Int[Tensor, "B L"], t: Int[Tensor, "B"]
) -> Float[Tensor, "B L K"]:
    """Return log p(x0_i | x_t without position i) from log p(x0_i | x_t), by dividing q(x_t,i | x0_i) out.

    A masked token says nothing of its x0, so there it is the prediction itself. Of a visible token j it is
    w_k ∝ p0_k / (alpha_bar_t·[k = j] + beta_bar_t).

    log_p0: normalised log p(x0 | x_t). xt: codes 0..K-1, or K where masked. t: 1..T. Returns log-probabilities in the
    dtype of the prediction, at least float32.

    Raises InputError if `log_p0` does not fit, or for a visible token under a schedule that replaces none at t: then
    p0 is certain of the token whatever the other tokens are, and says nothing. Mask it before the prediction instead.
    """
    check_prediction(schedule, log_p0, xt)
    log_p0 = promoted(log_p0)
    alpha_bar, beta_bar, _ = schedule.marginal(t)
    visible = xt != schedule.num_codes
    # Elsewhere the host would have to wait for the device; there such a token keeps no probability.
    if visible.is_cpu and bool((visible & (beta_bar == 0)[:, None]).any()):
        raise InputError(
            "this schedule replaces no tokens, so the prediction of a visible token depends on that token alone: mask "
            "the positions to redraw before the prediction"
        )
    evidence = (alpha_bar + beta_bar).log() - beta_bar.log()  # of the token's own code against any other
    itself = F.one_hot(xt, schedule.num_codes + 1)[..., :-1].bool()
    return torch.where(itself, log_p0 - evidence[:, None, None].to(log_p0), log_p0).log_softmax(-1)


def token_log_probs(
    schedule: Schedule, log_p0: Float[Tensor, "B L K"], xt: Int[Tensor, "B L"], t: Int[Tensor, "B"]
) -> Float[Tensor, "B L K+1"]:
    """Return log q(x_t,i | x_t without position i), MASK last: gamma_bar_t for MASK, alpha_bar_t·w_k + beta_bar_t else.

    w is `leave_one_out`. To redraw one position from it leaves q(x_t) unchanged, whichever position it is, if that is
    chosen without a look at its token. Several positions at once are drawn as if they were independent, which is not
    exact. The other arguments and the errors are those of `leave_one_out`.
    """
    w = leave_one_out(schedule, log_p0, xt, t).exp()
    alpha_bar, beta_bar, gamma_bar = (part[:, None, None].to(w) for part in schedule.marginal(t))
    return torch.cat([alpha_bar * w + beta_bar, gamma_bar.expand(*xt.shape, 1)], dim=-1).log()
