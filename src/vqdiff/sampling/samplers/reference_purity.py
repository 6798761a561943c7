"""The published reveal loop by purity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vqdiff.diffusion import draw_categorical, purity
from vqdiff.foundation.shapes import Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_purity
from vqdiff.sampling.plan import Plan, PlanInput, reference_reveal_plan, reference_reveals
from vqdiff.sampling.prediction import take
from vqdiff.sampling.reveal import Reveal, fill, first_positions
from vqdiff.sampling.sampler import WARPING, SamplerFacts
from vqdiff.sampling.step import StepInput

__all__ = ["ReferenceReveal"]


@dataclass(frozen=True)
class ReferenceReveal(Reveal):
    """The published "high-quality inference": fixed counts, and a last call at t = 1 that resamples every position.

    Purity is divided by the image's largest, for the weights and for the exponent; Improved VQ-Diffusion, Eq. 11, uses
    it undivided. The last call is not sharpened.

    reveals: tokens to reveal at each time 1..T; None for the published tables. most: the largest number a call may
    reveal, None for no limit.
    """

    reveals: tuple[int, ...] | None = None
    most: int | None = None

    def plan(self, given: PlanInput) -> Plan:
        reveals = self.reveals or reference_reveals(given.schedule.num_steps, given.num_tokens, self.most)
        return reference_reveal_plan(given, reveals, self.most)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """As `Reveal`, but with the purity of the whole image, and with all positions to fill in the last call."""
        u_order, u = x.u
        last = x.now.t == 1
        fillable = x.masked | last[:, None]
        log_p0 = x.prediction.at()
        purities = purity(log_p0)
        purities = purities / purities.amax(1, keepdim=True)
        chosen = first_positions(self.order(purities, u_order), fillable, x.now.most)
        # In the last call, purity 0 sharpens nothing.
        purities = (purities * ~last[:, None]).gather(1, chosen)
        x0 = draw_categorical(self._sharpen(x, take(log_p0, chosen), purities), u.gather(1, chosen))
        return fill(x, chosen, x0, fillable)


_FACTS = SamplerFacts(
    "the published code's purity sampler: fixed counts at each of the T times, all resampled in the last call",
    "2205.16007", "fixed for each T and number of tokens", "no", uses=WARPING | {"prior_scale"},
)  # fmt: skip
SAMPLERS.register("reference-purity", ReferenceReveal(by_purity, sharpened=True, facts=_FACTS))
