"""The exact posterior over strides of time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, draw_forward
from vqdiff.foundation.shapes import Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.plan import Plan, PlanInput, strided_plan
from vqdiff.sampling.sampler import WARPING, Sampler, SamplerFacts, draw_posterior_step
from vqdiff.sampling.step import StepInput

__all__ = ["Strided"]


@dataclass(frozen=True)
class Strided(Sampler):
    """Draw x_s from Σ_x0 q(x_s | x_t, x0) p(x0 | x_t) for any s < t (arXiv 2111.14822, Eq. 13), exactly.

    every: take all the steps from start to 0, whatever number is requested.
    """

    every: bool = False
    facts: SamplerFacts = field(
        default=SamplerFacts(exact="one token per call"), compare=False, repr=False, kw_only=True
    )

    def plan(self, given: PlanInput) -> Plan:
        return strided_plan(replace(given, steps=given.start) if self.every else given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return draw_posterior_step(x, x.now.t)

    def noise(
        self, schedule: Schedule, x0: Int[Tensor, "B L"], t: Int[Tensor, "B"], u: Float[Tensor, "B L"]
    ) -> Int[Tensor, "B L"]:
        """Draw x_t from q(x_t | x_0); at T all codes are equally likely, though q may still slightly favour x_0."""
        gamma_bar = schedule.gamma_bar_ends[1]
        code = ((u - gamma_bar) / (1 - gamma_bar) * schedule.num_codes).long().clamp(0, schedule.num_codes - 1)
        x_T = torch.where(u < gamma_bar, schedule.num_codes, code)
        return torch.where((t == schedule.num_steps)[:, None], x_T, draw_forward(schedule, x0, t, u))


_FACTS = SamplerFacts(
        "the posterior over equal strides of time, each token from its exact one; as ancestral when steps = T",
        "2111.14822", "steps, at most T", "one token per call", uses=WARPING | {"steps"},
)  # fmt: skip
SAMPLERS.register("strided", Strided(facts=_FACTS))
