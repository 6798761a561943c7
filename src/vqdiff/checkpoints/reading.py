"""Convert foreign state dicts to our networks: names are translated, shapes checked, nothing dropped silently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import release
from vqdiff.interfaces import Network

StateDict = Mapping[str, Tensor]
Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Reading(Generic[Config]):
    """One network of a checkpoint: its configuration, its weights, and its unused keys (without prefix)."""

    config: Config
    weights: dict[str, Tensor]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class KeyNames:
    """The names of our weights in another project.

    pieces: replacements that turn our names into theirs, in order. fused: a piece of a name that stands for several of
    their tensors, stacked.
    """

    pieces: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]]

    def of(self, name: str) -> list[str]:
        """Return their names for our tensor ``name``."""
        for ours, theirs in self.pieces.items():
            name = name.replace(ours, theirs)
        split = [name.replace(ours, part) for ours, parts in self.fused.items() if ours in name for part in parts]
        return split or [name]


def shape_of(state: StateDict, key: str, prefix: str = "") -> torch.Size:
    """Return the shape of ``state[key]``; InputError if it is missing. ``prefix`` completes the name in the message."""
    if key not in state:
        raise InputError(f"the checkpoint is incomplete: {prefix}{key} is missing; download it again")
    if not isinstance(state[key], Tensor):
        raise InputError(f"{prefix}{key} is a {type(state[key]).__name__}, not a tensor")
    return state[key].shape


def count(state: StateDict, prefix: str) -> int:
    """Count the numbered entries under ``prefix``."""
    return len({match[0] for key in state if (match := re.match(rf"{re.escape(prefix)}\.\d+\.", key))})


def listed(keys: list[str]) -> str:
    """Format the first names of a list, and how many more there are."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def collect(
    state: StateDict,
    config: Config,
    network: type[nn.Module],
    names: KeyNames,
    *,
    prefix: str = "",
    dtype: torch.dtype | None = None,
) -> Reading[Config]:
    """Collect the weights of ``network(config)`` from ``state``, floating-point ones as ``dtype`` (default float32).

    Each tensor is copied once, directly to its place. Raises an InputError that lists missing weights, or names one
    that has another shape or is not finite; ``prefix`` completes the names.
    """
    with torch.device("meta"):
        wanted = network(config).state_dict()
    theirs = {name: names.of(name) for name in wanted}
    missing = [prefix + key for keys in theirs.values() for key in keys if key not in state]
    if missing:
        raise InputError(f"the checkpoint is incomplete: {listed(missing)} is missing; download it again")
    weights: dict[str, Tensor] = {}
    for name, like in wanted.items():
        parts = len(theirs[name])
        shape = torch.Size([like.shape[0] // parts, *like.shape[1:]])
        for key in theirs[name]:
            if shape_of(state, key, prefix) != shape:
                found = tuple(state[key].shape)
                raise InputError(f"{prefix}{key} has shape {found}, but {tuple(shape)} fits the rest")
        kind = dtype if dtype is not None and like.is_floating_point() else like.dtype
        weights[name] = torch.empty(like.shape, dtype=kind, device=state[theirs[name][0]].device)
        for place, key in zip(weights[name].chunk(parts), theirs[name], strict=True):
            place.copy_(state[key])
            release(state[key])
            if place.is_floating_point() and not place.is_meta and not place.isfinite().all():
                raise InputError(
                    f"{prefix}{key} is not finite: the training run that wrote it failed, or the file is damaged"
                )
    used = {key for keys in theirs.values() for key in keys}
    return Reading(config, weights, tuple(sorted(state.keys() - used)))


def scatter(module: Network, names: KeyNames) -> dict[str, Tensor]:
    """The inverse of `collect`: a network's weights with the other project's names."""
    return {
        key: part.contiguous()
        for name, value in module.state_dict().items()
        for key, part in zip(names.of(name), value.chunk(len(names.of(name))), strict=True)
    }


def assemble(network: type[Module], reading: Reading[Any]) -> Module:
    """Make the network with these weights, in evaluation mode, without a second copy of them."""
    with torch.device("meta"):
        module = network(reading.config)
    module.load_state_dict(reading.weights, assign=True)
    return module.eval().requires_grad_(False)
