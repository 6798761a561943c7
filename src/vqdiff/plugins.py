"""Registries of what other packages may add by name; entries are imported when they are used.

Register an object in a program (``SAMPLERS.register("mine", MySampler())``), or offer it from an installed package
through an entry point of the registry's group, and use its name wherever one of this package's own is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vqdiff.foundation.registry import Registry

__all__ = ["DATA_SOURCES", "DENOISERS", "IMAGE_TOKENIZERS", "ORDERS", "QUANTIZERS", "SAMPLERS"]


class _Samplers(Registry[Any]):
    """Each order is a sampler, too: it reveals positions in that order, and is otherwise as the sampler purity."""

    def get(self, name: str) -> Any:
        if name not in super().names() and name in ORDERS.names():
            order = ORDERS.get(name)
            reveal = import_module(self.home).Reveal(order, sharpened=True)
            self.register(name, reveal, ORDERS.descriptions()[name])
        return super().get(name)

    def names(self) -> list[str]:
        return list(dict.fromkeys([*super().names(), *ORDERS.names()]))


ORDERS: Registry[Any] = Registry("order", "vqdiff.orders", home="vqdiff.sampling.orders")
"""`vqdiff.sampling.Order`: which positions are revealed first."""
SAMPLERS: Registry[Any] = _Samplers("sampler", "vqdiff.samplers", home="vqdiff.sampling.samplers")
"""`vqdiff.sampling.Sampler`."""
QUANTIZERS: Registry[Any] = Registry("quantizer", "vqdiff.quantizers", home="vqdiff.image_tokenizers.quantizers")
"""Functions from a `CompactConfig` to a `vqdiff.interfaces.Quantizer`."""
IMAGE_TOKENIZERS: Registry[Any] = Registry("image tokenizer", "vqdiff.image_tokenizers", home="vqdiff.image_tokenizers")
"""Classes of `vqdiff.interfaces.ImageTokenizer`, by the name that saved models have for them."""
DENOISERS: Registry[Any] = Registry("denoiser", "vqdiff.denoisers", home="vqdiff.denoisers")
"""Classes of `vqdiff.interfaces.Denoiser`, likewise."""
DATA_SOURCES: Registry[Any] = Registry("data source", "vqdiff.data_sources", home="vqdiff.data.splits")
"""`vqdiff.interfaces.DataSource`: kinds of data sets."""
