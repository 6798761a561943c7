"""The assembled model and its folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from vqdiff.files import atomic_path


def save_component(module: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a network with a ``config`` dataclass."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for name, value in module.state_dict().items()
    }
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps({"class": type(module).__name__, **dataclasses.asdict(module.config)}, indent=2) + "\n")
    with atomic_path(folder / "model.safetensors") as path:
        save_file(tensors, path)
