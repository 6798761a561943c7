"""Read models from other projects' files and from our own folders; the only place that knows foreign key names."""

from __future__ import annotations

from pathlib import Path

import torch

from vqdiff.checkpoints import diffusers, microsoft
from vqdiff.checkpoints.microsoft import Extras
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import read_json
from vqdiff.interfaces import ImageTokenizer
from vqdiff.model import Model, load_component

__all__ = ["Extras", "kind_of", "read", "read_model"]


def read_model(path: Path, extras: Extras, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model:
    """Read a model folder, a diffusers folder or an original checkpoint; the denoiser as ``dtype`` (float32).

    ``shapes_only`` gives parts on the meta device and reads almost nothing of the weights.
    Raises InputError for a path that is broken, incomplete, of another format, or of several at once.
    """
    found = read(path, extras, dtype=dtype, shapes_only=shapes_only)
    if not isinstance(found, Model):
        raise InputError(f"{path} is only an image tokenizer: name the model, and this as its image_tokenizer")
    return found


def read(
    path: Path, extras: Extras, *, dtype: torch.dtype | None = None, shapes_only: bool = False
) -> Model | ImageTokenizer:
    """As :func:`read_model`, but return an image tokenizer if there is only that."""
    kind = kind_of(path)
    if kind == "checkpoint":
        return microsoft.read(path, extras, dtype=dtype, shapes_only=shapes_only)
    if any(value is not None for value in extras.values()):
        raise InputError(f"{path} is a {kind} and complete by itself: leave out {', '.join(extras)}")
    if kind == "tokenizer folder":
        return load_component(path, shapes_only=shapes_only)
    if kind == "diffusers folder":
        return diffusers.read_model(path, dtype=dtype, shapes_only=shapes_only)
    return Model.load(path, dtype=dtype, shapes_only=shapes_only)


def kind_of(path: Path) -> str:
    """The kind of ``path``, by file names: checkpoint (any file), model folder, diffusers folder, tokenizer folder.

    Raises InputError for a folder that looks like several of them, or that only holds checkpoints.
    """
    if path.is_file():
        return "checkpoint"
    index, config = (
        read_json(file) if (file := path / name).is_file() else {} for name in ("model_index.json", "config.json")
    )
    signs = {
        "model folder": "format_version" in index or (path / "denoiser").is_dir(),
        "diffusers folder": "_class_name" in index or (path / "transformer").is_dir(),
        "tokenizer folder": "class" in config,
    }
    kinds = [kind for kind, there in signs.items() if there]
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt", ".ckpt"))
    if files and not kinds:
        raise InputError(f"{path} is not a model folder but holds {', '.join(files[:5])}: name the checkpoint itself")
    if len(kinds) + bool(files) > 1:
        found = [f"a {kind}" for kind in kinds] + [f"the checkpoint {file}" for file in files[:1]]
        raise InputError(f"{path} looks like several formats at once: {', '.join(found)}; keep one of them there")
    return kinds[0] if kinds else "model folder"
