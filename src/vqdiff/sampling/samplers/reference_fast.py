"""The published fast sampler."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vqdiff.foundation.shapes import Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.plan import Plan, PlanInput, reference_fast_plan
from vqdiff.sampling.sampler import WARPING, Sampler, SamplerFacts, draw_posterior_step
from vqdiff.sampling.step import StepInput

__all__ = ["ReferenceFast"]


@dataclass(frozen=True)
class ReferenceFast(Sampler):
    """The published fast sampler: single-step posteriors at shifted times (`reference_fast_plan`), from all MASK."""

    skip: int | None = None
    facts = SamplerFacts(
        "the published code's fast sampler: one-step posteriors at shifted times",
        "2111.14822", "at most steps, and at least 2", "no", uses=WARPING | {"steps"},
    )  # fmt: skip

    def plan(self, given: PlanInput) -> Plan:
        return reference_fast_plan(given, self.skip)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return draw_posterior_step(x, x.now.s + 1)


SAMPLERS.register("reference-fast", ReferenceFast())
