"""Recipes for training on your own images: TOML files, a folder per stage, see `--template` of the commands."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from vqdiff.foundation.errors import unknown

Stage = Literal["tokenizer", "diffusion", "guidance", "scorer", "evaluation", "study"]

_SIZES = {100: "own-100", 1000: "own-1000", 10000: "own-10000"}
_DEFAULT = {"own": "own-1000"}
"""Short names of recipes."""


def names(stage: Stage) -> list[str]:
    """The names of the recipes of a stage."""
    found = [path.stem for path in sorted(_folder(stage).glob("*.toml"))]
    return [*(short for short, name in _DEFAULT.items() if name in found), *found]


def path_of(stage: Stage, name: str) -> Path:
    """The file of a recipe; InputError for an unknown name, with those that there are."""
    if name not in (known := names(stage)):
        raise unknown("template", name, known)
    stem = name if (_folder(stage) / f"{name}.toml").is_file() else _DEFAULT[name]
    return _folder(stage) / f"{stem}.toml"


def recommended(images: int) -> str:
    """The name of the recipe for a denoiser on so many images: that of the nearest size, as a ratio."""
    return _SIZES[min(_SIZES, key=lambda size: max(size, images) / max(1, min(size, images)))]


def _folder(stage: Stage) -> Path:
    return Path(str(resources.files("vqdiff"))) / "recipes" / "training" / stage
