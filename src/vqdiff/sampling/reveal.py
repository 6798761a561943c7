"""Reveal masked positions, a planned number per step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vqdiff.diffusion import draw_categorical, purity, sharpen
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.sampling.orders import Order, by_purity, by_random, needs_purity
from vqdiff.sampling.plan import Plan, PlanInput, reveal_plan
from vqdiff.sampling.prediction import take
from vqdiff.sampling.sampler import Sampler, SamplerFacts, largest
from vqdiff.sampling.step import StepInput

__all__ = ["Reveal", "fill", "first_positions"]


@dataclass(frozen=True)
class Reveal(Sampler):
    """Reveal a planned number Δz of masked positions per step, and never change them again.

    Algorithms 1 and 2 of Improved VQ-Diffusion (arXiv 2205.16007), for any number of tokens, times and steps.

    order: which positions go first. sharpened: sample from softmax((1 + prior_scale · purity) · log p0) (Eq. 11 of
    Improved VQ-Diffusion).
    """

    order: Order = by_random
    sharpened: bool = False
    facts: SamplerFacts = field(
        default=SamplerFacts(exact="one token per call"), compare=False, repr=False, kw_only=True
    )

    def plan(self, given: PlanInput) -> Plan:
        return reveal_plan(given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return self._algorithm_2(x) if needs_purity(self.order) else self._algorithm_1(x)

    def _algorithm_1(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Choose first: the network's head is evaluated at the chosen positions alone."""
        u_order, u = x.u
        # A_t ← {i : x_i = MASK};  C_t ← Δz elements of A_t
        chosen = first_positions(self.order(u_order, u_order), x.masked, x.now.most)
        # x_0,i ~ p(x_0,i | x_t, y)
        log_p0 = x.prediction.at(chosen)
        x0 = draw_categorical(self._sharpen(x, log_p0, purity(log_p0)), u.gather(1, chosen))
        # x_i ← x_0,i for i in C_t
        return fill(x, chosen, x0, x.masked)

    def _algorithm_2(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Predict first: the purity of all masked positions decides which are chosen."""
        u_order, u = x.u
        # A_t ← {i : x_i = MASK}
        masked = largest(x.masked.byte(), x.now.left)
        # purity_i ← max_k p(x_0,i = k | x_t, y)
        log_p0 = x.prediction.at(masked)
        purities = purity(log_p0)
        # C_t ← Δz elements of A_t, by importance sampling with weights purity_i (to a power, by default 1)
        order = self._scores(x, purities, u_order.gather(1, masked))
        first = first_positions(order, x.masked.gather(1, masked), x.now.most)
        chosen, log_p0, purities = masked.gather(1, first), take(log_p0, first), purities.gather(1, first)
        # p_i ← softmax((1 + r · purity_i) · log p(x_0,i | x_t, y));  x_0,i ~ p_i
        x0 = draw_categorical(self._sharpen(x, log_p0, purities), u.gather(1, chosen))
        # x_i ← x_0,i for i in C_t
        return fill(x, chosen, x0, x.masked)

    def _scores(self, x: StepInput, purities: Float[Tensor, "B N"], u: Float[Tensor, "B N"]) -> Tensor:
        """Score positions by the order; that of purity draws them with weights purity to a power."""
        return self.order(x.settings.weights(purities) if self.order is by_purity else purities, u)

    def _sharpen(
        self, x: StepInput, log_p0: Float[Tensor, "B N K"], purities: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B N K"]:
        """Apply temperature, truncation and sharpening to a prediction, as the settings say."""
        log_p0, r = x.settings.warp(log_p0), x.settings.prior_scale
        return log_p0 if r is None or not self.sharpened else sharpen(log_p0, purities, r)


def first_positions(order: Tensor, fillable: Bool[Tensor, "B M"], count: int) -> Int[Tensor, "B N"]:
    """Return which `count` of M positions are filled first: the fillable in their order, then any others."""
    scores = order if order.is_floating_point() else order.double()
    return largest(scores.expand(fillable.shape).masked_fill(~fillable, -torch.inf), count)


def fill(
    x: StepInput, at: Int[Tensor, "B N"], x0: Int[Tensor, "B N"], fillable: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """Write x0 to the first `now.reveal` of the positions `at`, where these are fillable; the rest stays."""
    wanted = torch.arange(x.now.most, device=at.device) < x.now.reveal[:, None]
    return x.tokens.scatter(1, at, torch.where(wanted & fillable.gather(1, at), x0, x.tokens.gather(1, at)))
