"""The training objective: the variational bound at one time, an auxiliary cross-entropy, and which times to train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vqdiff.diffusion.numerics import divide, promoted
from vqdiff.diffusion.posterior import AGREES, DIFFERS, MASKED, bridge, check_prediction
from vqdiff.diffusion.schedule import Schedule
from vqdiff.foundation.shapes import Float, Int

__all__ = ["DiffusionLoss", "LossHistory", "diffusion_loss"]

_TINY = 1e-300


@dataclass(frozen=True)
class DiffusionLoss:
    """The loss of each image, in nats summed over its tokens, before the weight 1 / p(t).

    kl: KL(q(x_{t-1} | x_t, x0) ‖ p(x_{t-1} | x_t)), 0 where t = 1. nll: -log p(x0 | x_1), 0 where t > 1.
    aux: cross-entropy of the prediction of x0. total: kl + nll + the weighted aux.
    """

    kl: Float[Tensor, "B"]
    nll: Float[Tensor, "B"]
    aux: Float[Tensor, "B"]
    total: Float[Tensor, "B"]

    @property
    def bound(self) -> Float[Tensor, "B"]:
        """The term of the variational bound, kl + nll: what `LossHistory` watches."""
        return self.kl + self.nll


def diffusion_loss(
    schedule: Schedule,
    logits: Float[Tensor, "B L K"],
    x0: Int[Tensor, "B L"],
    xt: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    *,
    aux_weight: float,
    adaptive: bool,
    mask_weight: tuple[float, float] = (1.0, 1.0),
) -> DiffusionLoss:
    """Compute the variational bound at time t with the auxiliary loss of VQ-Diffusion (arXiv 2111.14822).

    KL(q(x_{t-1} | x_t, x0) ‖ p(x_{t-1} | x_t)) + λ_t·(-log p(x0 | x_t)), from raw logits, with p(x_{t-1} | x_t) of
    its Eq. 11. The closed form is derived in docs/equations.md, section 6.

    x0: codes. xt: a sample from `q_sample(schedule, x0, t)`. t: 1..T. aux_weight: λ. adaptive: whether λ is multiplied
    by 2 - (t - 1) / T, that is by 2 at t = 1 and by almost 1 at t = T. mask_weight: factors for the KL and the
    cross-entropy of masked and of visible positions; the likelihood at t = 1 is not weighted.

    Raises InputError if the shapes do not fit.
    """
    check_prediction(schedule, logits, xt)
    log_p0 = promoted(logits).log_softmax(-1)
    bound, cross_entropy = _bound_and_cross_entropy(schedule, log_p0, x0, xt, t)
    first = t == 1
    weight = torch.where(xt == schedule.num_codes, *mask_weight).masked_fill(first[:, None], 1.0)
    terms, aux = ((x * weight).sum(1).to(log_p0.dtype) for x in (bound, cross_entropy))
    lambda_t = aux_weight * (2 - (t - 1) / schedule.num_steps if adaptive else 1)
    return DiffusionLoss(
        kl=terms.masked_fill(first, 0.0), nll=terms.masked_fill(~first, 0.0), aux=aux, total=terms + lambda_t * aux
    )


def _bound_and_cross_entropy(
    schedule: Schedule, log_p0: Float[Tensor, "B L K"], x0: Tensor, xt: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Return KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) for s = t - 1, which at s = 0 is -log p(x0 | x_1), and -log p0(x0).

    The closed form of docs/equations.md, section 6. Away from x0 and x_t, where q is w_uniform and p is
    w_x0·p0 + w_uniform·v, one sum of log(1 + c·p0) serves all codes; x0 and x_t are computed separately:

        KL = Σ_k q_k log(q_k / p_k) = [k = x0] + [k = x_t] + [all other k]

    Everything but that sum is in float64: the weights span a dozen orders of magnitude. x_t = MASK adds nothing,
    because q and p agree there by Lemma 1.
    """
    K = schedule.num_codes
    masked, agrees = xt == K, xt == x0
    differs = ~(masked | agrees)
    w_x0, w_xt, w_uniform, _ = bridge(schedule, t, t - 1)
    at_xt = (w_xt + w_uniform)[..., None]  # q(x_s = x_t | x_t, x0) in each case
    rho = divide(w_uniform[:, AGREES], w_uniform[:, DIFFERS])[:, None]
    not_agrees = torch.where(masked, MASKED, DIFFERS)
    w_x0, w_uniform = w_x0.gather(1, not_agrees), w_uniform.gather(1, not_agrees)
    log_p0_x0, log_p0_xt = log_p0.gather(-1, torch.stack([x0, xt.clamp(max=K - 1)], -1)).double().unbind(-1)
    v = torch.where(masked, 1.0, (1 - (1 - rho) * log_p0_xt.exp()).clamp(min=_TINY))

    # k = x0, unless it is x_t: q = w_x0 + w_uniform, p = w_x0·p0(x0) + w_uniform·v; their quotient in logarithms, so
    # that a tiny p0 does not vanish.
    q_x0 = w_x0 + w_uniform
    share = divide(w_x0, q_x0)
    log_p_over_q = torch.logaddexp(share.log() + log_p0_x0, (1 - share).log() + v.log())
    kl_x0 = -torch.where(agrees, 0.0, q_x0) * log_p_over_q

    # k = x_t, a code: q has one value where x0 agrees with it and another where it differs, and p is their mean.
    log_differs = (-torch.expm1(log_p0_xt)).clamp(min=_TINY).log()
    log_p_xt = torch.logaddexp(at_xt[:, AGREES].log() + log_p0_xt, at_xt[:, DIFFERS].log() + log_differs)
    q_xt = torch.where(masked, 0.0, torch.where(agrees, at_xt[:, AGREES], at_xt[:, DIFFERS]))
    kl = kl_x0 + torch.xlogy(q_xt, q_xt) - q_xt * log_p_xt

    # All other k: q = w_uniform, times rho where x0 agrees, p = w_uniform·v·(1 + c·p0) with c = w_x0 / (w_uniform·v).
    # Their sum of log(1 + c·p0) is that over all codes, less the one or two above.
    if any(schedule.replaced_ends):
        log_c = _log(w_x0) - _log(w_uniform) - v.log()
        total = F.softplus(log_p0 + log_c.to(log_p0.dtype)[..., None]).sum(-1).double()
        total = total - F.softplus(log_p0_x0 + log_c) - torch.where(differs, F.softplus(log_p0_xt + log_c), 0.0)
        count = torch.where(differs, K - 2, K - 1)
        q = w_uniform * torch.where(agrees, rho, 1.0)
        kl = kl + q * (count * (torch.where(agrees, _log(rho), 0.0) - v.log()) - total)
    return kl, -log_p0_x0


def _log(x: Tensor) -> Tensor:
    """Return log x, and 0 where x is 0, because its term then has the factor 0."""
    return torch.where(x > 0, x, 1.0).log()


class LossHistory:
    """Importance sampling of t: times are drawn in proportion to the root mean square of their recent loss.

    Until every time has been seen `warmup` times, all are equally likely. Moments and counts are float64, on `device`,
    for t = 1..T in this order; the host never waits for the device.
    """

    def __init__(self, num_steps: int, *, decay: float = 0.9, warmup: int = 10, device: torch.device | str = "cpu"):
        self.decay = decay
        self.warmup = warmup
        self.second_moment = torch.zeros(num_steps, dtype=torch.float64, device=device)
        self.count = torch.zeros_like(self.second_moment)

    def probabilities(self) -> Float[Tensor, "T"]:
        """Return p(t) for t = 1..T. The likelihood at t = 1 has another scale, so t = 1 is weighted as t = 2."""
        weight = (self.second_moment + 1e-10).sqrt() + 1e-4
        weight = torch.cat([weight[1:2], weight[1:]]) if len(weight) > 1 else weight
        weight = torch.where((self.count > self.warmup).all(), weight, 1.0)
        return weight / weight.sum()

    def pick(self, u: Float[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Turn uniforms in [0, 1) into times; returns t in 1..T, and p(t), by which to divide its loss."""
        p = self.probabilities()
        index = torch.searchsorted(p.cumsum(0), u.to(p), right=True).clamp_max(len(p) - 1)
        return index + 1, p[index]

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Draw a time for every image of a batch; see `pick`."""
        return self.pick(torch.rand(batch_size, dtype=torch.float64, device=self.count.device, generator=generator))

    def update(self, t: Int[Tensor, "B"], loss: Float[Tensor, "B"]) -> None:
        """Update the moments with the bound of a batch (`DiffusionLoss.bound`).

        The order of the batch does not matter: n images at one t move its moment by 1 - decay^n towards their mean.
        """
        steps = torch.arange(1, len(self.count) + 1, device=t.device)
        hits = (t == steps[:, None]).double()  # a matrix product sums in a fixed order, scatter_add on a GPU does not
        n = hits.sum(1)
        mean = hits @ loss.detach().double().square() / n.clamp(min=1)
        self.second_moment = torch.lerp(mean, self.second_moment, self.decay**n)
        self.count = self.count + n

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that `load_state_dict` restores."""
        return {"second_moment": self.second_moment, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self.second_moment = state["second_moment"].to(self.second_moment)
        self.count = state["count"].to(self.count)
