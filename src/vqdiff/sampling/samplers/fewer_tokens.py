"""Algorithm 1 of Improved VQ-Diffusion."""

from __future__ import annotations

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import by_random
from vqdiff.sampling.reveal import Reveal
from vqdiff.sampling.sampler import REVEALING, SamplerFacts

_FACTS = SamplerFacts(
    "fewer tokens per step, at random positions (Algorithm 1)",
    "2205.16007", exact="one token per call", uses=REVEALING,
)  # fmt: skip
SAMPLERS.register("fewer-tokens", Reveal(by_random, facts=_FACTS))
