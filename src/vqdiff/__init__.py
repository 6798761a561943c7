"""Discrete diffusion over image tokens: Improved VQ-Diffusion (arXiv 2205.16007), from text to images.

``vqdiff.load("emoji")("a red apple", seed=0)`` generates an image. The mathematics alone is in :mod:`vqdiff.diffusion`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqdiff.foundation.errors import InputError
    from vqdiff.pipeline import Pipeline, load
    from vqdiff.sampling import samplers
    from vqdiff.settings import Guidance
    from vqdiff.text import Blend

__version__ = "0.1.0"
__all__ = ["Blend", "Guidance", "InputError", "Pipeline", "__version__", "load", "samplers"]

_HOMES = {
    "Blend": "vqdiff.text",
    "Guidance": "vqdiff.settings",
    "InputError": "vqdiff.foundation.errors",
    "Pipeline": "vqdiff.pipeline",
    "load": "vqdiff.pipeline",
    "samplers": "vqdiff.sampling",
}


def __getattr__(name: str) -> object:
    # Lazy (PEP 562), so that `import vqdiff.diffusion` and `vqdiff --help` load nothing they do not need.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
