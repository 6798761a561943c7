"""Data sets of the library ``datasets``: saved to disk, or on the Hugging Face Hub."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from vqdiff.data.shards import picture_column, reader
from vqdiff.data.sources import Row, Source, digest, file_stamps, read_inside
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import require
from vqdiff.foundation.images import ImageError


def saved_splits(folder: Path) -> dict[str, Callable[[], Source]]:
    """The splits of a data set that ``datasets`` saved to disk; memory-mapped."""
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be read as a data set: {error}") from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    stamps = file_stamps(sorted(folder.rglob("*.arrow")), folder)
    return {
        str(name): partial(
            _read_dataset,
            split.to_iterable_dataset(),
            digest((stamps, name)),
            len(split),
            lambda path: read_inside(folder, folder, path),
        )
        for name, split in splits.items()
    }


def hub_splits(name: str) -> dict[str, Callable[[], Source]]:
    """The splits of a data set on the Hugging Face Hub, streamed without storing it on disk."""
    datasets = _datasets()
    try:
        builder = datasets.load_dataset_builder(name)
        splits = builder.as_streaming_dataset()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"cannot open {name} on the Hugging Face Hub: {error}") from error
    origin = digest(Path(builder.cache_dir).parts[-4:])  # name, configuration, version, commit
    counts = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
    return {
        str(name): partial(_read_dataset, split, digest((origin, name)), counts.get(name), fetch)
        for name, split in splits.items()
    }


def _read_dataset(dataset: Any, origin: str, count: int | None, read: Callable[[str], bytes]) -> Source:
    features = dataset.features or {}

    def rows() -> Iterator[Row]:
        for number, columns in enumerate(dataset.decode(False)):
            column = picture_column(columns)
            if column is None:
                raise InputError(f"no column of images among {', '.join(columns)}; call it 'image'")
            picture = columns.pop(column)
            if "__key__" in columns:  # a webdataset
                described, text = columns.get("json"), columns.get("txt")
                label = {"label": columns["cls"]} if "cls" in columns else {}
                columns = (
                    (described if isinstance(described, dict) else {}) | {"captions": (text or "").split("\n")} | label
                )
            yield Row(f"row {number}", reader(picture, read), columns)

    names = None if count is None else lambda: [f"row {number}" for number in range(count)]
    return Source(rows, origin, names, count, tuple(getattr(features.get("label"), "names", None) or ()))


def fetch(path: str, attempts: int = 4, pause: float = 1.0) -> bytes:
    """Read the bytes of a file; InputError if it is on the Hub and cannot be fetched after several attempts.

    After the first attempt it waits for ``pause`` seconds, after each further one twice as long as before.

    Raises ImageError for a file on another server, and for a path relative to the working directory.
    """
    if "hf://" not in path:
        if "://" in path or not os.path.isabs(path):
            raise ImageError(f"the set has only its path, {path}, which is not on the Hub")
        return Path(path).read_bytes()
    import fsspec

    for attempt in range(attempts):
        try:
            with fsspec.open(path, "rb") as file:
                return file.read()  # pyright: ignore[reportAttributeAccessIssue]
        except FileNotFoundError:
            raise
        except Exception as error:  # each protocol raises its own types
            if attempt == attempts - 1:
                reason = str(error) or type(error).__name__
                raise InputError(
                    f"{path} cannot be fetched ({reason}): run the command again to continue from it"
                ) from error
            time.sleep(pause * 2.0**attempt)
    raise AssertionError


def _datasets() -> ModuleType:
    require("this data set", "train", "datasets")
    import datasets

    return datasets
