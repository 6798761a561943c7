"""Positions far apart first."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_halton
from vqdiff.sampling.reveal import Reveal
from vqdiff.sampling.sampler import REVEALING, SamplerFacts

_FACTS = SamplerFacts(
    "as purity, but positions far from each other first (Halton sequence)",
    "2503.17076", exact="one token per call", uses=REVEALING | {"prior_scale"},
)  # fmt: skip
SAMPLERS.register("halton", Reveal(by_halton, sharpened=True, facts=_FACTS))
