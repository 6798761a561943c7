"""As many steps as an image needs: reveal what is nearly certain, by a bound on the error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import draw_categorical, purity
from vqdiff.foundation.shapes import Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.plan import Plan, PlanInput, reveal_plan
from vqdiff.sampling.prediction import take
from vqdiff.sampling.reveal import Reveal, fill, first_positions
from vqdiff.sampling.sampler import WARPING, SamplerFacts, largest
from vqdiff.sampling.step import StepInput

__all__ = ["EntropyBound"]


@dataclass(frozen=True)
class EntropyBound(Reveal):
    """Reveal the longest prefix, by entropy H, with Σ H - max H ≤ ε (Ben-Hamu et al. 2025, arXiv 2505.24857).

    Positions drawn independently differ from their joint distribution by a Kullback-Leibler divergence of at most this
    sum. ε is `error`, and the last step takes all that is left. If it is 0, ε is an equal share of that sum over
    all masked positions, so that the requested steps are taken, and each adds about as much error as another.
    """

    adaptive: ClassVar[bool] = True
    sharpened: bool = True

    def plan(self, given: PlanInput) -> Plan:
        return reveal_plan(replace(given, settings=None))

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        u = x.u[1]
        masked = largest(x.masked.byte(), max(1, x.now.left))
        fillable = x.masked.gather(1, masked)
        prediction = x.prediction.at(masked)
        log_p0 = self._sharpen(x, prediction, purity(prediction))
        entropy = -(log_p0.exp() * log_p0).nan_to_num(nan=0.0).sum(-1)  # 0 · log 0 = 0
        count = self._count(x, entropy.masked_fill(~fillable, torch.inf).sort(dim=1).values, fillable.sum(1))
        first = first_positions(-entropy, fillable, int(count.max()) if count.is_cpu else x.now.left)
        chosen = masked.gather(1, first)
        x0 = draw_categorical(take(log_p0, first), u.gather(1, chosen))
        now = replace(x.now, reveal=count, most=chosen.shape[1])
        return fill(x._replace(now=now), chosen, x0, x.masked)

    @staticmethod
    def _count(x: StepInput, entropy: Float[Tensor, "B M"], left: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        """Return how many positions are revealed: at least one; all if the plan ends here. entropy: sorted, then ∞."""
        finite = entropy.masked_fill(entropy.isinf(), 0)
        before = finite.cumsum(1) - finite  # Σ H - max H of each prefix, as the last of it is the largest
        error = before.gather(1, (left - 1).clamp(min=0)[:, None])[:, 0] * x.now.reveal / left.clamp(min=1)
        if (given := x.settings.error) is not None:
            error = torch.where(given > 0, given.to(error), error)
        within = (before <= error[:, None]).sum(1)
        return torch.where(x.now.reveal >= left, left, torch.minimum(within.clamp(min=1), left))


_FACTS = SamplerFacts(
    "reveals in a step as many positions as are nearly certain, by their entropy: few steps for plain images",
    "2505.24857", calls="at most steps", exact="one token per call", uses=WARPING | {"steps", "prior_scale", "error"},
)  # fmt: skip
SAMPLERS.register("entropy-bound", EntropyBound(facts=_FACTS))
