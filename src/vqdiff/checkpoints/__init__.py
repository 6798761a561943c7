"""Models in other projects' files, and our own folders, by one call; the only place that knows foreign key names."""

from __future__ import annotations

from pathlib import Path

import torch

from vqdiff.checkpoints import microsoft
from vqdiff.checkpoints.microsoft import Extras
from vqdiff.errors import InputError
from vqdiff.model import Model

__all__ = ["Extras", "read_model"]


def read_model(path: Path, extras: Extras, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model:
    """The model in a folder of ours or in an original checkpoint; the denoiser as ``dtype`` (default float32).

    ``shapes_only`` gives parts on the meta device and reads next to nothing of the weights.
    Raises InputError for what is broken, incomplete, of another format, or of several at once.
    """
    if path.is_file():
        return microsoft.read_model(path, extras, dtype=dtype, shapes_only=shapes_only)
    if any(value is not None for value in extras.values()):
        raise InputError(f"{path} is a model folder and complete in itself: leave out {', '.join(extras)}")
    others = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt", ".ckpt"))
    if others and (path / "model_index.json").is_file():
        raise InputError(f"{path} is a model folder and also holds the checkpoint {others[0]}: name one or the other")
    if others:
        raise InputError(f"{path} is no model folder but holds {', '.join(others[:5])}: name the checkpoint itself")
    return Model.load(path, dtype=dtype, shapes_only=shapes_only)
