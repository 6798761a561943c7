"""The training loss as in the published VQ-Diffusion: over log-one-hot tensors (B, K+1, L); the baseline for our own.

Written from the equations of arXiv 2111.14822 and the published numerics: log-softmax in float64, a mask class with log
probability -70, zeros as 1e-30, samples by Gumbel noise. It is slightly faster than the published program: no
bookkeeping of accuracies and losses, and torch's own logaddexp. Times start at 0, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vqdiff.diffusion import Schedule
from vqdiff.foundation.shapes import Float, Int

_ZERO = 1e-30
_LOWEST = -70.0


class LogOneHot:
    """Samples of q(x_t | x_0) and the loss, from log-probabilities of K codes and the mask."""

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        times = torch.arange(1, schedule.num_steps + 1)
        self.num_steps, self.num_classes = schedule.num_steps, schedule.num_codes + 1
        self.one = self._logs(*schedule.kernel(times - 1, times), device)
        # The last entry, to which the time before the first wraps, has no noise: it gives q(x_0 | x_0).
        cumulative = schedule.marginal(torch.cat([times, torch.zeros(1, dtype=torch.int64)]))
        self.cumulative = self._logs(*cumulative, device)

    def to_log_one_hot(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B C L"]:
        """0 for the class of each position, log 1e-30 for the others."""
        return F.one_hot(x, self.num_classes).permute(0, 2, 1).float().clamp(min=_ZERO).log()

    def q_sample(self, log_x0: Float[Tensor, "B C L"], t: Int[Tensor, "B"]) -> Float[Tensor, "B C L"]:
        """Draw x_t, log-one-hot."""
        log_q = self._transition(self.cumulative, log_x0, t)
        gumbel = -torch.log(-torch.log(torch.rand_like(log_q) + _ZERO) + _ZERO)
        return self.to_log_one_hot((gumbel + log_q).argmax(1))

    def loss(
        self,
        logits: Float[Tensor, "B K L"],
        log_x0: Float[Tensor, "B C L"],
        log_xt: Float[Tensor, "B C L"],
        t: Int[Tensor, "B"],
        *,
        aux_weight: float,
        adaptive: bool = True,
        mask_weight: tuple[float, float] = (1.0, 1.0),
    ) -> Float[Tensor, "B"]:
        """Bound and auxiliary loss of each image, in nats, as ``total`` of `vqdiff.diffusion.diffusion_loss`."""
        log_p0 = self._log_p0(logits)
        model, true = (self._posterior(log, log_xt, t) for log in (log_p0, log_x0))
        masked = (log_xt.argmax(1) == self.num_classes - 1).float()
        weight = masked * mask_weight[0] + (1 - masked) * mask_weight[1]
        kl = (_kl(true, model) * weight).sum(1)
        nll = -(log_x0.exp() * model).sum((1, 2))
        first = (t == 0).float()
        aux = (_kl(log_x0[:, :-1], log_p0[:, :-1]) * weight).sum(1)
        factor = aux_weight * (2 - t / self.num_steps if adaptive else 1)
        return first * nll + (1 - first) * kl + factor * (first * nll + (1 - first) * aux)

    def _log_p0(self, logits: Tensor) -> Tensor:
        log_p0 = F.log_softmax(logits.double(), 1).float()
        mask = torch.full_like(log_p0[:, :1], _LOWEST)
        return torch.cat([log_p0, mask], 1).clamp(_LOWEST, 0)

    def _posterior(self, log_x0: Tensor, log_xt: Tensor, t: Tensor) -> Tensor:
        """Log q(x_{t-1} | x_t) of a distribution of x_0."""
        masked = (log_xt.argmax(1) == self.num_classes - 1)[:, None]
        zero = torch.full_like(log_xt[:, :1], _ZERO).log()
        cumulative = self._transition(self.cumulative, log_xt, t)[:, :-1]  # symmetric for codes: q(x_t | x_0)
        cumulative = ~masked * cumulative + masked * self.cumulative[2][t][:, None, None]
        single = torch.cat([self._transition(self.one, log_xt, t)[:, :-1], zero], 1)
        to_mask = self.one[2][t][:, None, None].expand(-1, self.num_classes - 1, 1)
        single = ~masked * single + masked * torch.cat([to_mask, torch.zeros_like(to_mask[:, :1])], 1)
        q = torch.cat([log_x0[:, :-1] - cumulative, zero], 1)
        total = q.logsumexp(1, keepdim=True)
        return (self._transition(self.cumulative, q - total, t - 1) + single + total).clamp(_LOWEST, 0)

    def _transition(self, logs: Tensor, log_x: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities after a transition whose logarithms are (alpha, beta, gamma, 1 - gamma)."""
        keep, code, mask, no_mask = logs[:, t, None, None]
        codes = torch.logaddexp(log_x[:, :-1] + keep, code)
        return torch.cat([codes, torch.logaddexp(log_x[:, -1:] + no_mask, mask)], 1)

    def _logs(self, alpha: Tensor, beta: Tensor, gamma: Tensor, device: torch.device) -> Tensor:
        """(4, T): logarithms, finite for zeros."""
        return torch.stack([alpha, beta, gamma, 1 - gamma]).clamp(min=1e-40).log().float().to(device)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(1)
