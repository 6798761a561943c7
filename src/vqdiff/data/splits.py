"""The splits of a data set of any layout: a folder of files, parquet or tar shards, a Hugging Face data set.

Local files are read without the library ``datasets``, which takes a second to import, reports every use to a server,
and stops at (or silently skips) an image without a caption; such images are reported here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from vqdiff.data.folders import list_files, read_folder
from vqdiff.data.hub import hub_splits, saved_splits
from vqdiff.data.shards import read_parquet, read_tars
from vqdiff.data.sources import IMAGE_SUFFIXES, Row, Source, digest, printable
from vqdiff.foundation.errors import InputError
from vqdiff.plugins import DATA_SOURCES

Splits = dict[str, Callable[[], Source]]
"""The splits of a set by name, each with the function that opens it."""

HUB = "hub:"
"""The prefix of names on the Hugging Face Hub, so that a mistyped folder is not looked up on a server."""

_SPLIT = re.compile(r"(train|validation|valid|val|test)(_\w+)?")
_SHARD_NUMBER = re.compile(r"(-\d+-of-\d+|[-_.]?\d+)$")
HELD_OUT = 0.02
"""The share of its images that is held out of a set with no other split than train, by default."""


def find_splits(data: str | Path) -> Splits:
    """The splits of a set by name, each with the function that opens it.

    ``data`` is what a kind of `vqdiff.plugins.DATA_SOURCES` takes, such as ``hub:owner/name``, or a folder with

    - ``*.parquet``, with a column ``image``: files' bytes, or paths inside the folder, relative to the parquet file;
    - ``*.tar`` in the webdataset layout: ``key.jpg`` with ``key.txt``, ``key.json`` or ``key.cls`` after it;
    - the output of ``datasets.Dataset.save_to_disk``;
    - images, with a ``metadata.jsonl``, ``metadata.csv`` or ``metadata.json``, or a ``.txt`` of the same name beside
      each (one caption per line), or in one sub-folder per class.

    Captions are in ``captions``, ``caption``, ``text`` or ``prompt``, a class in ``label``. Splits are sub-folders or
    shards that are called ``train``, ``validation`` or ``test``, or begin so (``test_style``); anything without such a
    name is ``train``.

    Raises InputError if the folder is missing or contains no images.
    """
    for name in DATA_SOURCES.names():
        if (splits := DATA_SOURCES.get(name)(str(data))) is not None:
            return dict(splits)
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}; name a folder of images, build one with `vqdiff data emoji -o {folder}`, "
            f"or name a data set on the Hugging Face Hub as {HUB}owner/name"
        )
    files = list_files(folder)
    parquet, tars = (_find_shards(folder, files, suffix) for suffix in (".parquet", ".tar"))
    if parquet and tars:
        raise InputError(f"{folder} contains both parquet files and tars: put each kind into a folder of its own")
    if parquet:
        return {split: partial(read_parquet, paths, folder) for split, paths in parquet.items()}
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if tars:
        splits = {split: partial(read_tars, paths) for split, paths in tars.items()}
        return _with_strays(splits, pictures, "it is beside tars, and a set has one layout: put it into a tar")
    if not pictures:
        kinds = Counter(file.suffix.lower() or file.name for file in files if not (folder / file).is_dir())
        found = f" (it has {', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common(5))})" if kinds else ""
        raise InputError(
            f"no images in {folder}{found}; put images there, with a metadata.jsonl or a .txt beside each if they "
            "have captions"
        )
    roots = sorted({file.parts[0] for file in pictures if len(file.parts) > 1 and _SPLIT.fullmatch(file.parts[0])})
    if not roots:
        return {"train": partial(read_folder, folder, folder, files)}
    strays = [file for file in pictures if file.parts[0] not in roots]
    of_all = [file for file in files if len(file.parts) == 1]
    splits = {
        name: partial(read_folder, folder, folder / name, [file for file in files if file.parts[0] == name] + of_all)
        for name in roots
    }
    return _with_strays(splits, strays, f"it is outside of the splits, {', '.join(roots)}: move it into one of them")


@DATA_SOURCES.add
def hub(data: str) -> Splits | None:
    """A data set on the Hugging Face Hub."""
    return hub_splits(data.removeprefix(HUB)) if data.startswith(HUB) else None


@DATA_SOURCES.add
def saved(data: str) -> Splits | None:
    """What ``datasets`` saved to disk."""
    folder = Path(data)
    is_saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
    return saved_splits(folder) if is_saved else None


def find(data: str | Path, split: str, validation: float = HELD_OUT, limit: int | None = None) -> Source:
    """The rows of one split, or the first ``limit`` of them; see `called` and `split_names`.

    ``validation`` is the share of its images that is the split ``test`` of a set that only has ``train``.
    """
    source = _find(data, split, validation)
    if limit is None:
        return source
    count = None if source.count is None else min(limit, source.count)
    return replace(source, rows=lambda: islice(source.rows(), limit), names=None, count=count)


def _find(data: str | Path, split: str, validation: float) -> Source:
    splits = find_splits(data)
    if split in ("train", "test") and list(splits) == ["train"]:
        return _hold_out(splits["train"](), validation, test=split == "test")
    found = [splits[name]() for name in called(split, splits)]
    if not found:
        raise InputError(f"{data} has no split {split!r}; it has {', '.join(_with_held_out(splits))}")
    return found[0] if len(found) == 1 else _join(found)


def split_names(data: str | Path) -> list[str]:
    """The names of a set's splits. If a set has only ``train``, a fixed share of its images are ``test``."""
    return _with_held_out(find_splits(data))


def _with_held_out(names: Iterable[str]) -> list[str]:
    return ["train", "test"] if list(names) == ["train"] else list(names)


def check_share(validation: float) -> None:
    """Raise InputError unless such a share of a set can be held out."""
    if not 0 < validation < 1:
        raise InputError(f"validation is {validation}: give the share of the images to hold out, such as 0.05")


def held_out_split(data: str | Path) -> str:
    """The split to measure on while training: ``validation`` under any of its names if there is one, else ``test``.

    ``data`` is a set of images, or the folder of its tokens.
    """
    names = [path.parent.name for path in Path(data).glob("*/about.json")] or split_names(data)
    return next((name for name in ("validation", "valid", "val") if called(name, names)), "test")


def called(split: str, names: Iterable[str]) -> list[str]:
    """The name that equals ``split``, or else all that have it as a prefix: ``test`` also stands for ``test_style``."""
    names = list(names)
    return [split] if split in names else [name for name in names if name.startswith(f"{split}_")]


def _with_strays(splits: Splits, strays: Sequence[PurePosixPath], reason: str) -> Splits:
    """The same splits, one of which also reports the images that are in none."""
    if not strays:
        return splits
    name = "train" if "train" in splits else next(iter(splits))
    rows = [Row(printable(stray.as_posix()), left_out=reason) for stray in strays]

    def with_rows(open_source: Callable[[], Source]) -> Source:
        source = open_source()
        return replace(source, rows=lambda: chain(source.rows(), rows), origin=digest((source.origin, strays)))

    return splits | {name: partial(with_rows, splits[name])}


def _join(sources: Sequence[Source]) -> Source:
    """Concatenate the rows of all sources."""
    names, counts = [source.names for source in sources], [source.count for source in sources]
    classes = {source.class_names for source in sources}
    return Source(
        lambda: chain.from_iterable(source.rows() for source in sources),
        digest(source.origin for source in sources),
        None if None in names else lambda: [name for source in sources if source.names for name in source.names()],
        None if None in counts else sum(count or 0 for count in counts),
        classes.pop() if len(classes) == 1 else (),
    )


def _hold_out(source: Source, share: float, *, test: bool) -> Source:
    """Hold out the images whose names have the smallest hashes."""
    limit, count = round(share * 2**160).to_bytes(20), None
    if source.names:
        hashes = sorted(map(_hash, source.names()))
        if len(hashes) < 2:
            raise InputError("one image cannot be divided into train and test; add images or make two sub-folders")
        held_out = min(max(1, round(share * len(hashes))), len(hashes) - 1)
        limit, count = hashes[held_out], held_out if test else len(hashes) - held_out

    def belongs(row: Row) -> bool:
        if row.left_out or row.faults:  # reported once, by either part
            return bool(row.faults) or not test
        return (_hash(row.name) < limit) == test

    origin = (source.origin, test) if share == HELD_OUT else (source.origin, test, share)
    return Source(lambda: filter(belongs, source.rows()), digest(origin), None, count, source.class_names)


def _hash(name: str) -> bytes:
    return hashlib.sha1(name.encode()).digest()


def _find_shards(folder: Path, files: Iterable[PurePosixPath], suffix: str) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix.lower() == suffix and len(file.parts) <= 2:
            names = (*file.parts[:-1], _SHARD_NUMBER.sub("", file.stem))
            shards.setdefault(next(filter(_SPLIT.fullmatch, names), "train"), []).append(folder / file)
    return shards
