"""Rows of parquet files and webdataset tars."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from vqdiff.data.sources import IMAGE_SUFFIXES, Row, Source, file_stamps, hidden, printable, read_inside
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import decode_text

_BATCH = 256  # rows of a parquet file that are in memory at once
_PAPERS = ("README", "LICENSE", "LICENCE")  # files of a tar that need no image
_IMAGE_COLUMNS = ("image", "img", "picture", *(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES)))


def read_parquet(paths: Sequence[Path], root: Path) -> Source:
    """Read parquet files whose column ``image`` holds the image files' bytes, directly or as ``{"bytes": …}``.

    If there is only a path, it is that of a file in the folder ``root``, relative to the parquet file's folder.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        shards = [parquet.ParquetFile(path, memory_map=True) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the parquet files beside {paths[0]}: {error}") from error
    columns_of = {path: picture_column(shard.schema_arrow.names) for path, shard in zip(paths, shards, strict=True)}
    for path, shard in zip(paths, shards, strict=True):
        if columns_of[path] is None:
            raise InputError(f"{path} has no column 'image' (it has {', '.join(shard.schema_arrow.names)})")

    def rows() -> Iterator[Row]:
        for path, shard in zip(paths, shards, strict=True):
            batches = (row for batch in shard.iter_batches(_BATCH) for row in batch.to_pylist())
            read = partial(read_inside, root, path.parent)
            for number, columns in enumerate(batches):
                yield Row(f"{path.name} row {number}", reader(columns.pop(columns_of[path]), read), columns)

    sizes = [(path.name, shard.metadata.num_rows) for path, shard in zip(paths, shards, strict=True)]
    return Source(
        rows,
        file_stamps(paths, paths[0].parent),
        lambda: [f"{name} row {number}" for name, size in sizes for number in range(size)],
        sum(size for _, size in sizes),
        _class_names(shards[0].schema_arrow.metadata or {}),
    )


def picture_column(names: Iterable[str]) -> str | None:
    """The name of the column that holds the images."""
    names = set(names)
    return next((name for name in _IMAGE_COLUMNS if name in names), None)


def reader(picture: Any, read: Callable[[str], bytes]) -> Callable[[], bytes]:
    """A function that reads an image given as bytes, a path, or ``{"bytes": …, "path": …}``; paths with ``read``."""
    content, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if isinstance(content, str):
        content, path = None, content
    if content is None and path:
        return partial(read, path)
    return lambda: content or b""


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The class names that ``datasets`` stored with a column of labels in a parquet file."""
    noted = json.loads(metadata.get(b"huggingface", b"{}"))
    label = noted.get("info", {}).get("features", {}).get("label", {})
    return tuple(label.get("names", ()))


def read_tars(paths: Sequence[Path]) -> Source:
    """Read webdataset tars; a sample is the consecutive files that share their name up to the first dot."""

    def rows() -> Iterator[Row]:
        for path in paths:
            key = ""
            try:
                with tarfile.open(path) as tar:
                    for sample in _samples(tar):
                        key = sample.key
                        yield from sample.rows(path, tar)
                if path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile takes a partial header for the end
                    raise tarfile.ReadError("the file is truncated")
            except (tarfile.TarError, OSError, EOFError) as error:  # a shard that was not copied completely
                yield Row(f"{path.name}: what follows {key}", left_out=str(error))

    def names() -> list[str]:
        found = dict[str, None]()
        for path in paths:
            with suppress(tarfile.TarError, OSError, EOFError), tarfile.open(path) as tar:
                for sample in _samples(tar):
                    if sample.picture is not None:
                        found[printable(f"{path.name}: {sample.key}")] = None
        return list(found)

    def unread() -> list[str]:
        found = list[str]()
        for path in paths:
            with suppress(tarfile.TarError, OSError, EOFError), tarfile.open(path) as tar:
                for sample in _samples(tar):
                    if sample.picture is not None:
                        found += [f"{path.name}: {printable(member.name)}" for member in sample.unread]
        return found

    return Source(rows, file_stamps(paths, paths[0].parent), names, unread=unread)


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    members = (member for member in tar if not member.isdir() and not hidden(member.name))
    for key, sample in groupby(members, lambda member: _key(member.name)):
        yield _Sample(key, list(sample))


def _key(name: str) -> str:
    """The folder and the name up to the first dot: ``a/b`` of ``a/b.c.jpg``."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}".lstrip("/")


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


class _Sample:
    """The members of a tar that share a key, by kind."""

    def __init__(self, key: str, members: Sequence[tarfile.TarInfo]) -> None:
        self.key, self.members = key, members
        self.pictures = [member for member in members if _suffix(member) in IMAGE_SUFFIXES]
        self.picture = self._only(self.pictures)
        self.described_by = {suffix: self._all(suffix) for suffix in (".json", ".txt", ".cls")}
        known = {*map(id, self.pictures), *(id(member) for found in self.described_by.values() for member in found)}
        self.unread = [member for member in members if id(member) not in known]

    def _all(self, suffix: str) -> list[tarfile.TarInfo]:
        return [member for member in self.members if _suffix(member) == suffix]

    def _only(self, members: Sequence[tarfile.TarInfo]) -> tarfile.TarInfo | None:
        """The unambiguous one: the only one, or the only one with no other dot in its name."""
        plain = [member for member in members if PurePosixPath(member.name).name.count(".") == 1]
        found = members if len(members) == 1 else plain
        return found[0] if len(found) == 1 else None

    def rows(self, path: Path, tar: tarfile.TarFile) -> Iterator[Row]:
        """Yield the image, if there is one, and whatever is left out."""
        for member in self.pictures:
            if member is not self.picture:
                others = [other.name for other in self.pictures if other is not member]
                same = f"{others[0]}, …" if others[1:] else others[0]
                reason = (
                    f"its name up to the first dot is that of {same}, which makes them one sample, and a sample has "
                    "one image: give it a name of its own"
                )
                yield Row(printable(f"{path.name}: {member.name}"), left_out=printable(reason))
        name = printable(f"{path.name}: {self.key}")
        if self.picture is not None:
            columns, faults = self._columns(tar)
            yield Row(name, self._reader(tar, self.picture), columns, faults=tuple(faults))
        elif not self.pictures and not PurePosixPath(self.key).name.upper().startswith(_PAPERS):
            found = ", ".join(member.name for member in self.members)
            reason = f"there is no image of a known kind among {found}; files of one sample must be consecutive"
            yield Row(name, left_out=printable(reason))

    def _columns(self, tar: tarfile.TarFile) -> tuple[dict[str, Any], list[str]]:
        columns, faults = dict[str, Any](), list[str]()
        for suffix, members in self.described_by.items():
            if not members:
                continue
            member = self._only(members)
            if member is None:
                faults.append(f"{members[0].name} and {members[1].name} both describe it: keep one")
                continue
            try:
                columns |= _parse(suffix, decode_text(_read(tar, member), member.name))
            except (InputError, OSError, ValueError, RecursionError) as error:
                text = str(error) if isinstance(error, InputError) else f"{member.name} cannot be read: {error}"
                faults.append(printable(text))
        return columns, faults

    def _reader(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
        try:
            content = _read(tar, member)
        except OSError as error:
            return partial(_fail, str(error))
        return lambda: content


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = tar.extractfile(member)  # follows links within the tar
    except KeyError as error:
        raise OSError(f"{member.name} is a link to a missing file") from error
    if file is None:
        raise OSError(f"{member.name} is not a file")
    return file.read()


def _parse(suffix: str, text: str) -> dict[str, Any]:
    if suffix == ".txt":
        return {"captions": text.split("\n")}
    if suffix == ".cls":
        return {"label": text.strip()}
    value = json.loads(text)
    return value if isinstance(value, dict) else {"json": value} if value else {}


def _fail(reason: str) -> bytes:
    raise OSError(reason)
