"""Finding the folder or file that a model's name, or that of a part of one, stands for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, Unpack

from vqdiff.foundation.errors import InputError, suggestion
from vqdiff.foundation.files import read_json
from vqdiff.model.hub import HubOptions, download, is_hub_id


def bundled() -> dict[str, Path]:
    """Return the folders of the models in the package, by name."""
    root = Path(str(resources.files("vqdiff"))) / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/model_index.json"))}


def find(source: str | Path, **options: Unpack[HubOptions]) -> Path:
    """Return the folder or file that ``source`` names: a path, a bundled model or a Hub id; else raises InputError.

    The folder of a training run stands for what the run has made: ``runs/mine`` for ``runs/mine/model``.
    """
    if not isinstance(source, str | Path):
        raise InputError(f"the model is {source!r}: give a name, a path or a Hub id")
    names = bundled()
    path = names.get(str(source), Path(source))
    if not path.exists() and is_hub_id(str(source)):
        return download(str(source), options)
    if not path.exists():
        hint = suggestion(source, names, "bundled: ")
        raise InputError(f"no model {str(source)!r}: it is not a folder, a file or a bundled model; {hint}")
    if revision := options.get("revision"):
        raise InputError(f"{source} is not on the Hub, so it has no revision {revision!r}: leave the revision out")
    if (path / "model" / "model_index.json").is_file():
        return path / "model"
    if (path / "log.jsonl").is_file():  # no model has one
        if not (path / "image_tokenizer").is_dir():
            raise InputError(f"{source} is a run that has not made a model yet: continue it with --resume")
        return path / "image_tokenizer"
    return path


def find_model(source: str | Path) -> Path:
    """Return the model folder that ``source`` names, as `find` does; InputError for anything else."""
    path = find(source)
    if not (path / "model_index.json").is_file():
        raise InputError(f"{source} is not a model folder: name one, the folder of its run, or {_names()}")
    return path


def find_part(source: str | Path, part: Literal["image_tokenizer", "text_encoder"]) -> Path:
    """Return the folder of a part: ``source`` names it, or a model or a run that has one, as in `find`.

    Raises InputError if there is no such part.
    """
    path = find(source)
    if (path / part).is_dir():
        return path / part
    config = path / "config.json"
    # Our own parts name their class there, text encoders of transformers do not.
    if not config.is_file() or ("class" in read_json(config)) != (part == "image_tokenizer"):
        what = part.replace("_", " ")
        raise InputError(f"{source} has no {what}: name the folder of one, of a model or of a run, or {_names()}")
    return path


def _names() -> str:
    return f"a bundled model ({', '.join(bundled())})"
