"""The published reveal loop at random positions."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_random
from vqdiff.sampling.sampler import WARPING, SamplerFacts
from vqdiff.sampling.samplers.reference_purity import ReferenceReveal

_FACTS = SamplerFacts(
    "the published code at `infer_speed=0.5`: at most five random positions per call, all resampled in the last call",
    "2205.16007", "fixed for each T and number of tokens", "no", uses=WARPING,
)  # fmt: skip
SAMPLERS.register("reference-fewer-tokens", ReferenceReveal(by_random, most=5, facts=_FACTS))
