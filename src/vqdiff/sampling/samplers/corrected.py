"""Strides with corrections between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, bridge, draw_categorical, token_log_probs
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_halton
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep, corrected_plan
from vqdiff.sampling.sampler import WARPING, SamplerFacts, places_of
from vqdiff.sampling.samplers.strided import Strided
from vqdiff.sampling.step import StepInput, StepSettings

__all__ = ["Corrected"]


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
        known: Bool[Tensor, "B L"],
    ) -> Int[Tensor, "B L"]:
        """Mask what will be drawn anew, if the schedule replaces hardly anything: then a visible token says it all."""
        if schedule.replaces:
            return tokens
        return torch.where(self._redrawn(now, settings, u[2], known), schedule.num_codes, tokens)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        t, corrects = x.now.t.clamp(min=1), (x.now.s == x.now.t)[:, None]
        redrawn = self._redrawn(x.now, x.settings, x.u[2], x.known)
        earlier = torch.where(corrects[:, 0], t - 1, x.now.s)  # any will do for the rows that are corrected
        q, (choice, u) = bridge(x.schedule, t, earlier), x.u[:2]
        undecided = torch.where(corrects, redrawn, q.undecided(x.tokens, choice) & (x.now.t > 0)[:, None])
        at = places_of(undecided)
        log_p0, u = x.settings.warp(x.prediction.at(at)), u.gather(1, at)
        x0 = draw_categorical(log_p0, u)
        strides = q.draw(torch.zeros_like(x.tokens).scatter(1, at, x0), x.tokens, choice)
        tokens = torch.where(redrawn, x.tokens, x.schedule.num_codes).gather(1, at)
        corrected = x.tokens.scatter(1, at, draw_categorical(token_log_probs(x.schedule, log_p0, tokens, t), u))
        return torch.where(corrects, torch.where(redrawn, corrected, x.tokens), strides)

    def _redrawn(
        self, now: PlanStep, settings: StepSettings, u: Float[Tensor, "B L"], known: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, "B L"]:
        """Return the positions to draw anew in the rows that are corrected.

        `corrector_share` of those that are not known, at least one: the next ones of the Halton sequence.
        """
        num_tokens = u.shape[1]
        order = (-by_halton(u, u)).long()  # 0 for the first position of the sequence
        first = (u[:, :1] * num_tokens).long()
        share = torch.zeros_like(now.t, dtype=u.dtype) if settings.corrector_share is None else settings.corrector_share
        count = (share * (~known).sum(1)).round().clamp(min=1)
        turns = ((order - first) % num_tokens).masked_fill(known, num_tokens)
        chosen = (turns.argsort(dim=1).argsort(dim=1) < count[:, None]) & ~known
        return chosen & ((now.s == now.t) & (now.t > 0) & (share > 0))[:, None]


_FACTS = SamplerFacts(
    "as strided, and between strides some tokens are drawn anew given all others (a Gibbs sampler)",
    calls="steps, at most 2T - 1", exact="one token per call", uses=WARPING | {"steps", "corrector_share"},
)  # fmt: skip
SAMPLERS.register("corrected", Corrected(facts=_FACTS))
