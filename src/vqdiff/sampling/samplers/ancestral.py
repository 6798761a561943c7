"""The exact posterior at every time."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.sampler import WARPING, SamplerFacts
from vqdiff.sampling.samplers.strided import Strided

_FACTS = SamplerFacts(
    "the posterior at every one of the T times, whatever `steps` says",
    "2111.14822", "T", "one token per call", uses=WARPING,
)  # fmt: skip
SAMPLERS.register("ancestral", Strided(every=True, facts=_FACTS))
