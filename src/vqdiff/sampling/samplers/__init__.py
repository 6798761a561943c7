"""The samplers by name, one module each: ``fewer_tokens.py`` registers the sampler ``fewer-tokens``.

A new module here is found by itself, and `vqdiff.plugins` knows its name without importing it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.sampler import Sampler

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def samplers() -> dict[str, str]:
    """Return the names of the samplers, each with a one-line description."""
    return SAMPLERS.descriptions()


def get_sampler(name: str) -> Sampler:
    """Return the sampler of that name.

    Raises InputError for an unknown name, and suggests the nearest.
    """
    return SAMPLERS.get(name)
