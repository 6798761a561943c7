"""Rows of parquet files, of webdataset tars, and of data sets that the library ``datasets`` knows."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from vqdiff.data.sources import PICTURE_SUFFIXES, Row, Source, digest, file_stamps
from vqdiff.errors import InputError

_BATCH = 256  # rows of a parquet file in memory at once
_PICTURE_COLUMNS = ("image", "img", "picture", *(suffix[1:] for suffix in sorted(PICTURE_SUFFIXES)))


def read_parquet(paths: Sequence[Path]) -> Source:
    """The rows of parquet files, whose column ``image`` holds the files' bytes, alone or as ``{"bytes": …}``."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        shards = [parquet.ParquetFile(path, memory_map=True) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the parquet files beside {paths[0]}: {error}") from error
    for path, shard in zip(paths, shards, strict=True):
        if "image" not in shard.schema_arrow.names:
            raise InputError(f"{path} has no column 'image' (it has {', '.join(shard.schema_arrow.names)})")

    def rows() -> Iterator[Row]:
        for path, shard in zip(paths, shards, strict=True):
            batches = (row for batch in shard.iter_batches(_BATCH) for row in batch.to_pylist())
            for number, columns in enumerate(batches):
                yield Row(f"{path.name} row {number}", _reader(columns.pop("image")), columns)

    sizes = [(path.name, shard.metadata.num_rows) for path, shard in zip(paths, shards, strict=True)]
    return Source(
        rows,
        file_stamps(paths, paths[0].parent),
        lambda: [f"{name} row {number}" for name, size in sizes for number in range(size)],
        sum(size for _, size in sizes),
        _class_names(shards[0].schema_arrow.metadata or {}),
    )


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """What ``datasets`` noted of a column of class labels in a parquet file."""
    noted = json.loads(metadata.get(b"huggingface", b"{}"))
    label = noted.get("info", {}).get("features", {}).get("label", {})
    return tuple(label.get("names", ()))


def read_tars(paths: Sequence[Path]) -> Source:
    """The samples of webdataset tars: files that follow each other and share their name up to the first dot."""

    def rows() -> Iterator[Row]:
        for path in paths:
            key, files = "", dict[str, bytes]()
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        if not member.isfile():
                            continue
                        new, suffix = _key(member.name)
                        if new != key and files:
                            yield from _sample(path, key, files)
                            files = {}
                        key = new
                        if file := tar.extractfile(member):
                            files[suffix] = file.read()
                if path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile takes half a header for the end
                    raise tarfile.ReadError("the file ends in the middle")
            except (tarfile.TarError, OSError, EOFError) as error:  # a shard that was not copied whole
                yield Row(f"{path.name}: what follows {key}", partial(_fail, str(error)), {})
                continue
            yield from _sample(path, key, files)

    def names() -> list[str]:
        found = dict[str, None]()
        for path in paths:
            with suppress(tarfile.TarError, OSError, EOFError), tarfile.open(path) as tar:
                for key, suffix in (_key(member.name) for member in tar):
                    if f".{suffix}" in PICTURE_SUFFIXES:
                        found[f"{path.name}: {key}"] = None
        return list(found)

    return Source(rows, file_stamps(paths, paths[0].parent), names)


def _key(name: str) -> tuple[str, str]:
    """``a/b.c.jpg`` → ``a/b`` and ``jpg``."""
    folder, _, file = name.rpartition("/")
    stem, _, suffixes = file.partition(".")
    return f"{folder}/{stem}".lstrip("/"), suffixes.rpartition(".")[2].lower()


def _sample(path: Path, key: str, files: Mapping[str, bytes]) -> Iterator[Row]:
    """The row that the files of one key make, if one of them is a picture."""
    picture = next((suffix for suffix in files if f".{suffix}" in PICTURE_SUFFIXES), None)
    if picture is None:
        return
    columns = dict[str, Any]()
    try:
        if said := json.loads(files.get("json", b"{}")):
            columns |= said if isinstance(said, dict) else {"json": said}
        if "txt" in files:
            columns["captions"] = files["txt"].decode("utf-8").split("\n")
        if "cls" in files:
            columns["label"] = files["cls"].decode("utf-8").strip()
    except ValueError as error:
        raise InputError(f"{path}: what is said about {key} cannot be read: {error}") from error
    yield Row(f"{path.name}: {key}", _reader(files[picture]), columns)


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
        str(name): partial(_read_dataset, split.to_iterable_dataset(), digest((stamps, name)), len(split))
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
        str(name): partial(_read_dataset, split, digest((origin, name)), counts.get(name))
        for name, split in splits.items()
    }


def _read_dataset(dataset: Any, origin: str, count: int | None) -> Source:
    features = dataset.features or {}

    def rows() -> Iterator[Row]:
        for number, columns in enumerate(dataset.decode(False)):
            column = next((name for name in _PICTURE_COLUMNS if name in columns), None)
            if column is None:
                raise InputError(f"no column of pictures among {', '.join(columns)}; call it 'image'")
            picture = columns.pop(column)
            if "__key__" in columns:  # a webdataset
                said, text = columns.get("json"), columns.get("txt")
                label = {"label": columns["cls"]} if "cls" in columns else {}
                columns = (said if isinstance(said, dict) else {}) | {"captions": (text or "").split("\n")} | label
            yield Row(f"row {number}", _reader(picture), columns)

    names = None if count is None else lambda: [f"row {number}" for number in range(count)]
    return Source(rows, origin, names, count, tuple(getattr(features.get("label"), "names", None) or ()))


def _reader(picture: Any) -> Callable[[], bytes]:
    """How to read a picture that is given as bytes or as ``{"bytes": …, "path": …}``."""
    content, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if content is None and path:
        return lambda: _fetch(path)
    return lambda: content or b""


def _fetch(path: str, attempts: int = 4) -> bytes:
    """The bytes of a file; InputError if it lies on the Hub and that cannot be reached, after some patience."""
    import fsspec

    for attempt in range(attempts):
        try:
            with fsspec.open(path, "rb") as file:
                return file.read()  # pyright: ignore[reportAttributeAccessIssue]
        except FileNotFoundError:
            raise
        except Exception as error:  # each way there has its own
            if "hf://" not in path:
                raise
            if attempt == attempts - 1:
                reason = str(error) or type(error).__name__
                raise InputError(
                    f"{path} cannot be fetched ({reason}): run the command again to go on from it"
                ) from error
            time.sleep(2.0**attempt)
    raise AssertionError


def _fail(reason: str) -> bytes:
    raise OSError(reason)


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError("this data set needs the library datasets: pip install 'vqdiff[train]'") from error
    return datasets
