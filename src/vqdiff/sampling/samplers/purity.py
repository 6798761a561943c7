"""Algorithm 2 of Improved VQ-Diffusion."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_purity
from vqdiff.sampling.reveal import Reveal
from vqdiff.sampling.sampler import REVEALING, SamplerFacts

_FACTS = SamplerFacts(
    "fewer tokens per step; the most confident positions are more likely to come first, and are sampled from "
    "sharper distributions (Algorithm 2)",
    "2205.16007", exact="one token per call", uses=REVEALING | {"prior_scale", "purity_power"},
)  # fmt: skip
SAMPLERS.register("purity", Reveal(by_purity, sharpened=True, facts=_FACTS))
