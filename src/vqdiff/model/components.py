"""The networks of a model, each with its configuration in a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vqdiff.denoisers.packed import is_packed
from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import LFS_POINTER, atomic_path, read_json, release
from vqdiff.foundation.initialising import without_initialising
from vqdiff.interfaces import Component
from vqdiff.plugins import DENOISERS, IMAGE_TOKENIZERS
from vqdiff.text import NullCondition

T = TypeVar("T")


def save_component(module: Component, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a network.

    Raises InputError if it is packed, since packing changes the weights.
    """
    if is_packed(module):
        raise InputError("this network is packed: save its pipeline, or load the model without packing it")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for name, value in module.state_dict().items()
    }
    config = {"class": type(module).__name__, **dataclasses.asdict(module.config)}
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    with atomic_path(folder / "model.safetensors") as path:
        try:
            save_file(tensors, path)
        except SafetensorError as error:  # as of a full disk
            raise OSError(str(error)) from error
        path.chmod(0o644)  # safetensors creates files that only their owner can read


def load_component(
    folder: Path,
    networks: Mapping[str, type[T]] | None = None,
    *,
    dtype: torch.dtype | None = None,
    shapes_only: bool = False,
) -> T:
    """Read what :func:`save_component` wrote, as ``dtype`` (default float32) and in evaluation mode.

    Its class must be one of ``networks``, by default those that are registered. ``shapes_only`` builds it on the meta
    device and reads no weights.
    """
    values = read_json(folder / "config.json")
    name = values.pop("class", None)
    network = _network(str(name), networks, folder / "config.json")
    config = build(network.Config, values, str(folder / "config.json"))
    # Uninitialised weights take no memory yet; tables that are computed, and not in the file, are computed here.
    with torch.device("meta" if shapes_only else "cpu"), without_initialising():
        module = network(config)
    if shapes_only:
        return module.eval().requires_grad_(False)
    weights = folder / "model.safetensors"
    try:
        kinds = {key: value.dtype for key, value in module.state_dict().items()}
        # Assigned tensor by tensor, so that a large model is never in memory twice.
        state = {
            key: converted(value, dtype if dtype and value.is_floating_point() else kinds.get(key, value.dtype))
            for key, value in load_file(weights).items()
        }
        module.load_state_dict(state, assign=True)
    except FileNotFoundError as error:
        raise InputError(f"{weights} is missing: the model folder is incomplete") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        with weights.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise InputError(
                f"{weights} is a Git LFS pointer instead of the weights: run git lfs pull there"
            ) from error
        raise InputError(f"{weights} is broken or of another network: {str(error).splitlines()[0]}") from error
    return module.eval().requires_grad_(False)


def _network(name: str, networks: Mapping[str, type[Any]] | None, where: Path) -> type[Any]:
    """The class that a saved component calls ``name``; InputError for an unknown one."""
    if networks is None:
        registry = DENOISERS if name in DENOISERS.names() else IMAGE_TOKENIZERS
        if name in registry.names():
            return registry.get(name)
        networks = _OTHERS
    if name not in networks:
        known = [*DENOISERS.names(), *IMAGE_TOKENIZERS.names(), *_OTHERS] if networks is _OTHERS else networks
        raise InputError(f"{where}: unknown class {name!r}; known: {', '.join(known)}")
    return networks[name]


_OTHERS: Mapping[str, type[Any]] = {"NullCondition": NullCondition}
"""Components of models that cannot be added from outside."""


def converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a file's tensor to ``dtype``, and release the pages of the file that were read."""
    if value.dtype == dtype:
        return value
    copy = value.to(dtype)
    release(value)
    return copy


def exact_dtype(modules: Iterable[Component]) -> torch.dtype:
    """Return the smallest floating-point type, of 16 or 32 bits, that holds all weights as they are."""
    weights = [value for one in modules for value in one.state_dict().values() if value.is_floating_point()]
    halves = (torch.float16, torch.bfloat16)
    return next(
        (half for half in halves if all(torch.equal(value.to(half).to(value), value) for value in weights)),
        torch.float32,
    )


def fingerprint(folder: Path) -> str:
    """Return a hash (twelve hex digits) of a folder's weights and configurations.

    Without the default settings, the presets, the card and the names of classes, which do not change the image of a
    label, and the measurement for the reveal curve measured, which has a hash of its own (`Model.curve_identity`).
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        content = path.read_bytes()
        if path == folder / "model_index.json":
            index = read_json(path)
            left_out = {"sampling", "presets", "card", "class_names", "masked_nll"}
            content = json.dumps({key: index[key] for key in index.keys() - left_out}, sort_keys=True).encode()
        digest.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]
