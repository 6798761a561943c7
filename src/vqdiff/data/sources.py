"""Where pictures and captions come from: parquet shards, ``metadata.jsonl`` or text files beside the pictures.

The layouts are those of Hugging Face ``datasets`` folders. They are read here without that library because it takes
seconds to start and silently leaves out pictures without a caption; we name them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

from vqdiff.errors import InputError

_SHARD = re.compile(r"(?P<split>\w+?)(-\d+-of-\d+)?\.parquet")
_SPLIT_FOLDER = re.compile(r"(train|validation|valid|val|test)(_\w+)?")
_PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
CAPTION_COLUMNS = ("captions", "caption", "text")


@dataclass(frozen=True)
class Source:
    """Rows of pictures and captions; the pictures are read only when gone through."""

    names: list[str]
    """What each picture is called in messages."""
    columns: dict[str, list[Any]]
    """What is said about each picture, captions and all."""
    files: list[Path]
    """The files it all comes from."""
    pictures: Callable[[], Iterator[bytes | Path]]
    """Each picture file, as its bytes or its path."""

    def captions(self) -> list[list[str]]:
        """The captions of each picture; an empty list where there are none."""
        given = [self.columns[name] for name in CAPTION_COLUMNS if name in self.columns]
        return [_texts(*choices) for choices in zip(*given, strict=True)] if given else [[] for _ in self.names]

    def select(self, chosen: Sequence[bool]) -> Source:
        """Only the chosen rows."""
        columns = {name: list(compress(values, chosen)) for name, values in self.columns.items()}
        names = list(compress(self.names, chosen))
        return Source(names, columns, self.files, lambda: compress(self.pictures(), chosen))


def join(sources: Sequence[Source]) -> Source:
    """The rows of all sources, one after another; what a source does not say is None."""
    columns = {
        name: [value for source in sources for value in source.columns.get(name, [None] * len(source.names))]
        for name in dict.fromkeys(name for source in sources for name in source.columns)
    }
    return Source(
        [name for source in sources for name in source.names],
        columns,
        [path for source in sources for path in source.files],
        lambda: chain.from_iterable(source.pictures() for source in sources),
    )


def find_splits(folder: Path) -> dict[str, Callable[[], Source]]:
    """The splits of a folder by name, each with the function that reads it.

    - ``data/SPLIT-*.parquet`` or ``SPLIT*.parquet``: a column ``image`` with the bytes, and ``captions``, ``caption``
      or ``text``;
    - ``metadata.jsonl`` with ``file_name`` and ``captions``, ``caption`` or ``text`` on each line, in the folder itself
      or in a sub-folder for each split (``train``, ``validation``, ``test`` …);
    - pictures with a ``.txt`` of the same name beside them, one caption a line; sub-folders as above.

    Raises InputError where the folder is missing or holds no pictures.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; name a folder of pictures with captions")
    shards: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        if match := _SHARD.fullmatch(path.name):
            shards.setdefault(match["split"], []).append(path)
    if shards:
        return {split: lambda paths=paths: _read_shards(paths) for split, paths in shards.items()}
    roots = {
        path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _SPLIT_FOLDER.fullmatch(path.name)
    }
    splits = {
        name: pictures for name, root in (roots or {"train": folder}).items() if (pictures := _find_pictures(root))
    }
    if not splits:
        raise InputError(f"no pictures in {folder}; put pictures there, with a metadata.jsonl or a .txt beside each")
    return {name: lambda name=name: _read_folder(roots.get(name, folder), splits[name]) for name in splits}


def _find_pictures(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.suffix.lower() in _PICTURES)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _read_shards(paths: Sequence[Path]) -> Source:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        shards = [parquet.ParquetFile(path) for path in paths]
        table = pa.concat_tables(
            shard.read([name for name in shard.schema_arrow.names if name != "image"]) for shard in shards
        )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the parquet files beside {paths[0]}: {error}") from error
    for path, shard in zip(paths, shards, strict=True):
        if "image" not in shard.schema_arrow.names:
            raise InputError(f"{path} has no column 'image' (it has {', '.join(shard.schema_arrow.names)})")

    def pictures() -> Iterator[bytes]:
        for shard in shards:
            for batch in shard.iter_batches(512, columns=["image"]):
                for image in batch.column("image").to_pylist():
                    yield (image["bytes"] if isinstance(image, dict) else image) or b""

    names = [
        f"{path.name} row {row}"
        for path, shard in zip(paths, shards, strict=True)
        for row in range(shard.metadata.num_rows)
    ]
    return Source(names, table.to_pydict(), list(paths), pictures)


def _read_folder(root: Path, pictures: Sequence[Path]) -> Source:
    metadata = root / "metadata.jsonl"
    rows = _read_metadata(metadata) if metadata.exists() else {path: _read_text(path) for path in pictures}
    for path in pictures:
        rows.setdefault(path, {})  # a picture that the metadata does not mention: it has no caption
    paths = list(rows)
    columns = {
        name: [row.get(name) for row in rows.values()]
        for name in dict.fromkeys(name for row in rows.values() for name in row)
    }
    files = [*paths, metadata] if metadata.exists() else paths
    return Source([str(path.relative_to(root)) for path in paths], columns, files, lambda: iter(paths))


def _read_metadata(path: Path) -> dict[Path, dict[str, Any]]:
    rows: dict[Path, dict[str, Any]] = {}
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
                rows[path.parent / row.pop("file_name")] = row
            except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
                raise InputError(
                    f'{path} line {number} must be {{"file_name": ..., "caption": ...}}: {error!r}'
                ) from error
    return rows


def _read_text(picture: Path) -> dict[str, Any]:
    path = picture.with_suffix(".txt")
    return {"captions": _lines(path)} if path.exists() else {}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text: {error}") from error


def _texts(*choices: Any) -> list[str]:
    """The first choice that has text in it, as a list of captions."""
    for choice in choices:
        texts = [choice] if isinstance(choice, str) else list(choice or ())
        if captions := [text.strip() for text in texts if isinstance(text, str) and text.strip()]:
            return captions
    return []
