"""The most confident positions first, as MaskGIT does."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_confidence
from vqdiff.sampling.reveal import Reveal
from vqdiff.sampling.sampler import REVEALING, SamplerFacts

_FACTS = SamplerFacts(
    "as purity, but always the most confident positions first",
    "2202.04200", exact="one token per call", uses=REVEALING | {"prior_scale"},
)  # fmt: skip
SAMPLERS.register("confidence", Reveal(by_confidence, sharpened=True, facts=_FACTS))
