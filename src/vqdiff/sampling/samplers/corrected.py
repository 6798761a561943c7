"""Strides with corrections between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, draw_categorical, token_log_probs
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_halton
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep, corrected_plan
from vqdiff.sampling.sampler import SamplerFacts, draw_posterior_step, largest
from vqdiff.sampling.samplers.strided import Strided
from vqdiff.sampling.step import StepInput, StepSettings

__all__ = ["Corrected"]

_REPLACES = 0.01
"""K·beta_bar at T above which a schedule is one that replaces tokens; published ones have 1e-6."""


@dataclass(frozen=True)
class Corrected(Strided):
    """As `Strided`, and after strides, calls that draw some positions anew at the same time (docs/equations.md, 12).

    A column of the plan with s = t is such a call. With a perfect network and one position a call, they leave q(x_t)
    unchanged. Which positions they are depends on the seed alone: neighbours in the Halton sequence.
    """

    num_uniforms: ClassVar[int] = 3

    def plan(self, given: PlanInput) -> Plan:
        return corrected_plan(given)

    def before(
        self,
        schedule: Schedule,
        tokens: Int[Tensor, "B L"],
        now: PlanStep,
        settings: StepSettings,
        u: Float[Tensor, "N B L"],
    ) -> Int[Tensor, "B L"]:
        """Mask what will be drawn anew, if the schedule replaces hardly anything: then a visible token says it all."""
        if schedule.replaced_ends[1] > _REPLACES:
            return tokens
        return torch.where(self._redrawn(now, settings, u[2]), schedule.num_codes, tokens)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        corrects = x.now.s == x.now.t
        if corrects.is_cpu and not corrects.any():
            return draw_posterior_step(x._replace(u=x.u[:2]), x.now.t)
        redrawn = self._redrawn(x.now, x.settings, x.u[2])
        at = largest(redrawn.byte(), int(redrawn.sum(1).max()) if redrawn.is_cpu else redrawn.shape[1])
        log_p0 = x.settings.warp(x.prediction.at(at))
        log_p = token_log_probs(x.schedule, log_p0, x.tokens.gather(1, at), x.now.t.clamp(min=1))
        corrected = x.tokens.scatter(1, at, draw_categorical(log_p, x.u[1].gather(1, at)))
        corrected = torch.where(redrawn, corrected, x.tokens)
        if corrects.is_cpu and corrects.all():
            return corrected
        earlier = torch.where(corrects, x.now.t - 1, x.now.s)  # any will do for the rows that are corrected
        strides = draw_posterior_step(x._replace(now=replace(x.now, s=earlier), u=x.u[:2]), x.now.t)
        return torch.where(corrects[:, None], corrected, strides)

    def _redrawn(self, now: PlanStep, settings: StepSettings, u: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Return the positions to draw anew: `corrector_share` of them in the rows that are corrected, at least one."""
        num_tokens = u.shape[1]
        order = (-by_halton(u, u)).long()  # 0 for the first position of the sequence
        first = (u[:, :1] * num_tokens).long()
        share = torch.zeros_like(now.t, dtype=u.dtype) if settings.corrector_share is None else settings.corrector_share
        count = (share * num_tokens).round().clamp(min=1)
        chosen = (order - first) % num_tokens < count[:, None]
        return chosen & ((now.s == now.t) & (now.t > 0) & (share > 0))[:, None]


_FACTS = SamplerFacts(
        "as strided, and between strides some tokens are drawn anew given all others (a Gibbs sampler)",
        calls="steps, at most 2T - 1", exact="one token per call",
)  # fmt: skip
SAMPLERS.register("corrected", Corrected(facts=_FACTS))
