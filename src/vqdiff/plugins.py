"""Registries of what other packages may add by name; entries are imported when they are used.

Register an object in a program (``SAMPLERS.register("mine", MySampler())``), or offer it from an installed package
through an entry point of the registry's group, and use its name wherever one of this package's own is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.registry import Registry

if TYPE_CHECKING:
    from vqdiff.image_tokenizers.compact import CompactConfig
    from vqdiff.interfaces import DataSource, Denoiser, ImageTokenizer, Quantizer
    from vqdiff.sampling import Sampler
    from vqdiff.sampling.curves import Curve
    from vqdiff.sampling.guides import Guide
    from vqdiff.sampling.orders import Order

__all__ = ["CURVES", "DATA_SOURCES", "DENOISERS", "GUIDES", "IMAGE_TOKENIZERS", "ORDERS", "QUANTIZERS", "SAMPLERS"]


class _Samplers(Registry["Sampler"]):
    """Each order is a sampler, too: it reveals positions in that order, and is otherwise as the sampler purity."""

    def register(self, name: str, thing: Sampler, description: str = "") -> Sampler:
        if isinstance(thing, type):
            raise InputError(f"the sampler {name!r} is a class: register an object of it, {thing.__name__}(…)")
        return super().register(name, thing, description or thing.facts.idea)

    def get(self, name: str) -> Sampler:
        if name not in super().names() and name in ORDERS.names():
            order = ORDERS.get(name)
            reveal = import_module("vqdiff.sampling.reveal").Reveal(order, sharpened=True)
            self.register(name, reveal, ORDERS.descriptions()[name])
        return super().get(name)

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.own(), *super().names(), *ORDERS.names()]))

    def installed(self) -> list[str]:
        return sorted([*super().installed(), *ORDERS.installed()])

    def own(self) -> list[str]:
        """Return the names of this package's own, without importing any: each is that of its module."""
        folder = Path(__file__).parent.joinpath(*self.home.split(".")[1:])
        return [module.name.replace("_", "-") for module in iter_modules([str(folder)])]


ORDERS: Registry[Order] = Registry("order", "vqdiff.orders", home="vqdiff.sampling.orders")
"""`vqdiff.sampling.orders.Order`: which positions are revealed first."""
CURVES: Registry[Curve] = Registry("reveal curve", "vqdiff.curves", home="vqdiff.sampling.curves")
"""`vqdiff.sampling.curves.Curve`: how many positions are revealed at which step."""
GUIDES: Registry[Guide] = Registry("guide", "vqdiff.guides", home="vqdiff.sampling.guides")
"""`vqdiff.sampling.guides.Guide`: what guidance leads away from."""
SAMPLERS = _Samplers("sampler", "vqdiff.samplers", home="vqdiff.sampling.samplers")
"""`vqdiff.sampling.Sampler`."""
QUANTIZERS: Registry[Callable[[CompactConfig], Quantizer]] = Registry(
    "quantizer", "vqdiff.quantizers", home="vqdiff.image_tokenizers.quantizers"
)
"""Functions from a `CompactConfig` to a `vqdiff.interfaces.Quantizer`."""
IMAGE_TOKENIZERS: Registry[type[ImageTokenizer]] = Registry(
    "image tokenizer", "vqdiff.image_tokenizers", home="vqdiff.image_tokenizers"
)
"""Classes of `vqdiff.interfaces.ImageTokenizer`, by the name that saved models have for them."""
DENOISERS: Registry[type[Denoiser]] = Registry("denoiser", "vqdiff.denoisers", home="vqdiff.denoisers")
"""Classes of `vqdiff.interfaces.Denoiser`, likewise."""
DATA_SOURCES: Registry[DataSource] = Registry("data source", "vqdiff.data_sources", home="vqdiff.data.splits")
"""`vqdiff.interfaces.DataSource`: kinds of data sets."""
