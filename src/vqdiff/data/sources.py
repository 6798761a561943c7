"""Where pictures come from, row by row: a folder of files, parquet or tar shards, a Hugging Face data set.

Everything above sees a `Source`: named rows that can be gone through again, read one by one, so that no set has to fit
in memory. Local files are read without the library ``datasets``, which takes a second to start, reports every use to a
server, and stops at (or silently leaves out) a picture without a caption; we name them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from vqdiff.errors import InputError

HUB = "hub:"
"""What a name on the Hugging Face Hub begins with, so that a mistyped folder never asks a server."""
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))

_SPLIT = re.compile(r"(train|validation|valid|val|test)(_\w+)?")
_SHARD_NUMBER = re.compile(r"(-\d+-of-\d+|[-_.]?\d+)$")
_HELD_OUT = 0.02  # of a set that has no test split


@dataclass(frozen=True)
class Row:
    """One picture and what is said about it."""

    name: str
    """What the picture is called in messages; different for each row of a source."""
    picture: Callable[[], bytes]
    """Reads the picture file; may fail for a broken one."""
    columns: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Rows that are read only when gone through."""

    rows: Callable[[], Iterator[Row]]
    origin: str
    """Changes with the pictures and with what is said about them."""
    names: Callable[[], list[str]] | None = None
    """All names, where they can be had without reading every picture."""
    count: int | None = None
    """The number of rows, where it is known beforehand."""
    class_names: tuple[str, ...] = ()
    """What the labels mean, where the set says so."""


def find_splits(data: str | Path) -> dict[str, Callable[[], Source]]:
    """The splits of a set by name, each with the function that opens it.

    ``data`` is ``hub:owner/name``, or a folder with

    - ``*.parquet``, with a column ``image``;
    - ``*.tar`` in the webdataset layout: ``key.jpg`` with ``key.txt``, ``key.json`` or ``key.cls`` after it;
    - what ``datasets.Dataset.save_to_disk`` wrote;
    - pictures, with a ``metadata.jsonl`` or ``metadata.csv``, or a ``.txt`` of the same name beside each (one caption a
      line), or in a sub-folder for each class.

    Captions are in ``captions``, ``caption`` or ``text``, a class in ``label``. Splits are sub-folders or shards that
    are called ``train``, ``validation``, ``test`` or begin so (``test_style``); whatever has no such name is ``train``.

    Raises InputError where the folder is missing or holds no pictures.
    """
    if str(data).startswith(HUB):
        from vqdiff.data.shards import hub_splits

        return hub_splits(str(data).removeprefix(HUB))
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}; name a folder of pictures, or a data set on the Hugging Face Hub as {HUB}owner/name"
        )
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        from vqdiff.data.shards import saved_splits

        return saved_splits(folder)
    for suffix in (".parquet", ".tar"):
        if shards := _find_shards(folder, suffix):
            from vqdiff.data.shards import read_parquet, read_tars

            read = {".parquet": read_parquet, ".tar": read_tars}[suffix]
            return {split: partial(read, paths) for split, paths in shards.items()}
    roots = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _SPLIT.fullmatch(path.name)}
    splits = {name: files for name, root in (roots or {"train": folder}).items() if (files := _find_pictures(root))}
    if not splits:
        raise InputError(
            f"no pictures in {folder}; put pictures there, with a metadata.jsonl or a .txt beside each if they have "
            "captions"
        )
    return {name: partial(_read_folder, roots.get(name, folder), files) for name, files in splits.items()}


def find(data: str | Path, split: str) -> Source:
    """The rows of one split; see `called` and `split_names`."""
    splits = find_splits(data)
    if split in ("train", "test") and list(splits) == ["train"]:
        return _hold_out(splits["train"](), test=split == "test")
    found = [splits[name]() for name in called(split, splits)]
    if not found:
        raise InputError(f"{data} has no split {split!r}; it has {', '.join(splits)}")
    return found[0] if len(found) == 1 else _join(found)


def split_names(data: str | Path) -> list[str]:
    """The names of a set's splits. Of a set with nothing but ``train``, a fixed 2 % of the pictures are ``test``."""
    names = list(find_splits(data))
    return ["train", "test"] if names == ["train"] else names


def called(split: str, names: Iterable[str]) -> list[str]:
    """The one of ``names`` that is ``split``, or else all that begin so: ``test`` also stands for ``test_style``."""
    names = list(names)
    return [split] if split in names else [name for name in names if name.startswith(f"{split}_")]


def digest(parts: Iterable[object]) -> str:
    """Twelve hex digits that change with any of ``parts``."""
    return hashlib.sha1(repr(list(parts)).encode()).hexdigest()[:12]


def file_stamps(paths: Iterable[Path], root: Path) -> str:
    """A digest of names, sizes and times of files; a file that is not there counts as such."""
    found = ((path.relative_to(root).as_posix(), path.stat() if path.exists() else None) for path in paths)
    return digest((name, status and (status.st_size, status.st_mtime_ns)) for name, status in found)


def _join(sources: Sequence[Source]) -> Source:
    """The rows of all sources, one after another."""
    names, counts = [source.names for source in sources], [source.count for source in sources]
    classes = {source.class_names for source in sources}
    return Source(
        lambda: chain.from_iterable(source.rows() for source in sources),
        digest(source.origin for source in sources),
        None if None in names else lambda: [name for source in sources if source.names for name in source.names()],
        None if None in counts else sum(count or 0 for count in counts),
        classes.pop() if len(classes) == 1 else (),
    )


def _hold_out(source: Source, *, test: bool) -> Source:
    """Set aside the pictures whose names have the smallest hashes."""
    limit, count = round(_HELD_OUT * 2**160).to_bytes(20), None
    if source.names:
        hashes = sorted(map(_hash, source.names()))
        if len(hashes) < 2:
            raise InputError("one picture cannot be divided into train and test; add pictures or make two sub-folders")
        held_out = max(1, round(_HELD_OUT * len(hashes)))
        limit, count = hashes[held_out], held_out if test else len(hashes) - held_out
    return Source(
        lambda: (row for row in source.rows() if (_hash(row.name) < limit) == test),
        digest((source.origin, test)),
        None,
        count,
        source.class_names,
    )


def _hash(name: str) -> bytes:
    return hashlib.sha1(name.encode()).digest()


def _find_shards(folder: Path, suffix: str) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"*/*{suffix}")]):
        if path.parent.name.startswith("."):
            continue
        said = (path.parent.name if path.parent != folder else "", _SHARD_NUMBER.sub("", path.stem))
        shards.setdefault(next(filter(_SPLIT.fullmatch, said), "train"), []).append(path)
    return shards


def _find_pictures(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _read_folder(root: Path, pictures: Sequence[Path]) -> Source:
    texts = [path.with_suffix(".txt") for path in pictures]
    metadata = [path for path in (root / "metadata.jsonl", root / "metadata.csv") if path.exists()]
    paths, describe, class_names = list(pictures), _read_caption_file, ()
    if metadata:
        said = {path.parent / name: row for path in metadata for name, row in _read_metadata(path)}
        paths = list(dict.fromkeys([*said, *pictures]))
        describe = lambda path: said.get(path, {})  # noqa: E731
    elif all(path.parent != root for path in pictures) and not any(path.exists() for path in texts):
        class_names = order_classes(path.relative_to(root).parts[0] for path in pictures)
        describe = lambda path: {"label": path.relative_to(root).parts[0]}  # noqa: E731
    names = [path.relative_to(root).as_posix() for path in paths]
    return Source(
        lambda: (Row(name, path.read_bytes, describe(path)) for name, path in zip(names, paths, strict=True)),
        file_stamps([*paths, *metadata, *texts], root),
        lambda: names,
        len(names),
        class_names,
    )


def _read_caption_file(picture: Path) -> dict[str, Any]:
    path = picture.with_suffix(".txt")
    return {"captions": _read_text(path).split("\n")} if path.exists() else {}


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Different class names in their order: numbers first, by value."""
    return tuple(sorted(set(names), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def _read_metadata(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = io.StringIO(_read_text(path), newline="\n")
    entries = csv.DictReader(lines) if path.suffix == ".csv" else filter(str.strip, lines)
    for number, entry in enumerate(entries, 1):
        try:
            row = json.loads(entry) if isinstance(entry, str) else entry
            yield row.pop("file_name"), row
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise InputError(
                f'{path} entry {number} must name a file, as in {{"file_name": ..., "caption": ...}}: {error!r}'
            ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text: {error}") from error
