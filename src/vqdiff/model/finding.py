"""Finding the folder or file that a model's name stands for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Unpack

from vqdiff.foundation.errors import InputError, suggestion
from vqdiff.model.hub import HubOptions, download, is_hub_id


def bundled() -> dict[str, Path]:
    """Return the folders of the models in the package, by name."""
    root = Path(str(resources.files("vqdiff"))) / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/model_index.json"))}


def find(source: str | Path, **options: Unpack[HubOptions]) -> Path:
    """Return the folder or file that ``source`` names: a path, a bundled model or a Hub id; else raises InputError."""
    names = bundled()
    path = names.get(str(source), Path(source))
    if not path.exists() and is_hub_id(str(source)):
        return download(str(source), options)
    if not path.exists():
        hint = suggestion(source, names, "bundled: ")
        raise InputError(f"no model {str(source)!r}: it is not a folder, a file or a bundled model; {hint}")
    return path
