"""Sets that the library ``datasets`` knows: what it saved to disk, and those on the Hugging Face Hub."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from vqdiff.data.shards import picture_column, reader
from vqdiff.data.sources import Row, Source, digest, file_stamps, read_inside
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import PictureError


def saved_splits(folder: Path) -> dict[str, Callable[[], Source]]:
    """The splits of what ``datasets`` saved to disk; memory-mapped."""
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no data set that can be read: {error}") from error
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
    """The splits of a data set on the Hugging Face Hub, streamed: nothing of it is kept on disk."""
    datasets = _datasets()
    try:
        builder = datasets.load_dataset_builder(name)
        splits = builder.as_streaming_dataset()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"cannot open {name} on the Hugging Face Hub: {error}") from error
    origin = digest(Path(builder.cache_dir).parts[-4:])  # name, configuration, version, commit
    counts = {split: info.num_examples for split, info in (builder.info.splits or {}).items()}
    return {
        str(name): partial(_read_dataset, split, digest((origin, name)), counts.get(name), _fetch)
        for name, split in splits.items()
    }


def _read_dataset(dataset: Any, origin: str, count: int | None, read: Callable[[str], bytes]) -> Source:
    features = dataset.features or {}

    def rows() -> Iterator[Row]:
        for number, columns in enumerate(dataset.decode(False)):
            column = picture_column(columns)
            if column is None:
                raise InputError(f"no column of pictures among {', '.join(columns)}; call it 'image'")
            picture = columns.pop(column)
            if "__key__" in columns:  # a webdataset
                said, text = columns.get("json"), columns.get("txt")
                label = {"label": columns["cls"]} if "cls" in columns else {}
                columns = (said if isinstance(said, dict) else {}) | {"captions": (text or "").split("\n")} | label
            yield Row(f"row {number}", reader(picture, read), columns)

    names = None if count is None else lambda: [f"row {number}" for number in range(count)]
    return Source(rows, origin, names, count, tuple(getattr(features.get("label"), "names", None) or ()))


def _fetch(path: str, attempts: int = 4) -> bytes:
    """The bytes of a file; InputError if it lies on the Hub and that cannot be reached, after some patience.

    Raises PictureError for what lies on another server, and for a path from the working directory.
    """
    if "hf://" not in path:
        if "://" in path or not os.path.isabs(path):
            raise PictureError(f"it is only named, as {path}, and does not lie on the Hub")
        return Path(path).read_bytes()
    import fsspec

    for attempt in range(attempts):
        try:
            with fsspec.open(path, "rb") as file:
                return file.read()  # pyright: ignore[reportAttributeAccessIssue]
        except FileNotFoundError:
            raise
        except Exception as error:  # each way there has its own
            if attempt == attempts - 1:
                reason = str(error) or type(error).__name__
                raise InputError(
                    f"{path} cannot be fetched ({reason}): run the command again to go on from it"
                ) from error
            time.sleep(2.0**attempt)
    raise AssertionError


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError("this data set needs the library datasets: pip install 'vqdiff[train]'") from error
    return datasets
