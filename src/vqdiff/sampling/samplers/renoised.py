"""Strides that also noise some tokens anew, so that visible tokens may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, bridge, draw_categorical, draw_forward
from vqdiff.foundation.shapes import Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.plan import Plan, PlanInput, looped_plan
from vqdiff.sampling.sampler import WARPING, SamplerFacts, places_of
from vqdiff.sampling.samplers.strided import Strided
from vqdiff.sampling.step import StepInput

__all__ = ["Renoised", "renoised_share"]


@dataclass(frozen=True)
class Renoised(Strided):
    """As `Strided`, but a share of the positions forgets x_t: x_s is drawn from q(x_s | x0), x0 from the prediction.

    Every position keeps the distribution q(x_s), whatever the share is (`renoised_share`). With masks alone these are
    the remasking samplers of Wang et al. 2025 (arXiv 2503.00307): `renoise` rescales, `renoise_cap` caps. If the
    schedule replaces hardly any tokens, x0 of a visible token is that token (docs/equations.md, 16).

    With `renoise_loop`, only the calls that stay at one time (s = t) noise positions anew (`looped_plan`).
    """

    num_uniforms: ClassVar[int] = 3

    def plan(self, given: PlanInput) -> Plan:
        return looped_plan(given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        (choice, u, which), t = x.u, x.now.t.clamp(min=1)
        q, going = bridge(x.schedule, t, x.now.s), (x.now.t > 0)[:, None]
        renoised = which < self._share(x, t)[:, None]
        visible = torch.zeros_like(x.masked) if x.schedule.replaces else ~x.masked
        at = places_of(torch.where(renoised, ~visible, q.undecided(x.tokens, choice)) & going)
        x0 = draw_categorical(x.settings.warp(x.prediction.at(at)), u.gather(1, at))
        x0 = torch.where(x.masked, 0, x.tokens).scatter(1, at, x0)
        again = draw_forward(x.schedule, torch.where(visible, x.tokens, x0), x.now.s, choice)
        return torch.where(renoised, again, q.draw(x0, x.tokens, choice))

    @staticmethod
    def _share(x: StepInput, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        if x.settings.renoise is None:
            return torch.zeros_like(x.u[0, :, 0])
        cap = torch.ones_like(x.settings.renoise) if x.settings.renoise_cap is None else x.settings.renoise_cap
        share = renoised_share(x.schedule, t, x.now.s, x.settings.renoise, cap)
        loop = x.settings.renoise_loop
        return share if loop is None else share.masked_fill((loop > 0) & (x.now.s < t), 0)


def renoised_share(
    schedule: Schedule, t: Int[Tensor, "B"], s: Int[Tensor, "B"], rate: Float[Tensor, "B"], cap: Float[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """Return the share ρ of the positions to noise anew, so that a clean visible token is noised with probability σ.

    σ is `rate` times the largest, (1 - alpha_bar_s) / alpha_bar_t or 1, and at most `cap`; ρ = σ / (1 - alpha_bar_s),
    at most 1, and 0 at s = 0, where nothing is noisy.
    """
    alpha_bar_t, noise = schedule.marginal(t)[0], 1 - schedule.marginal(s)[0]
    most = (noise / alpha_bar_t).nan_to_num(nan=1.0).clamp(max=1)
    sigma = torch.minimum(rate.to(noise) * most, cap.to(noise))
    return torch.where(noise > 1e-12, sigma / noise, 0.0).clamp(max=1)


_FACTS = SamplerFacts(
    "as strided, but some positions are noised anew from their predicted x0, so that visible tokens may change",
    "2503.00307", "steps, at most T beside a loop", "one token per call",
    uses=WARPING | {"steps", "renoise", "renoise_cap", "renoise_loop"},
)  # fmt: skip
SAMPLERS.register("renoised", Renoised(facts=_FACTS))
