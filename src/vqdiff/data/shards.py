"""Rows of parquet files and of webdataset tars."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from vqdiff.data.sources import PICTURE_SUFFIXES, Row, Source, file_stamps, hidden, printable, read_inside
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import decode_text

_BATCH = 256  # rows of a parquet file in memory at once
_PAPERS = ("README", "LICENSE", "LICENCE")  # of a tar, which need no picture
_PICTURE_COLUMNS = ("image", "img", "picture", *(suffix[1:] for suffix in sorted(PICTURE_SUFFIXES)))


def read_parquet(paths: Sequence[Path], root: Path) -> Source:
    """The rows of parquet files, whose column ``image`` holds the files' bytes, alone or as ``{"bytes": …}``.

    Where there is a path alone, it is that of a file in the folder ``root``, named from the parquet file's own on.
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
    """The one of a table's columns that holds the pictures."""
    names = set(names)
    return next((name for name in _PICTURE_COLUMNS if name in names), None)


def reader(picture: Any, read: Callable[[str], bytes]) -> Callable[[], bytes]:
    """How to read a picture that is given as bytes, as a path, or as ``{"bytes": …, "path": …}``; paths by ``read``."""
    content, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if isinstance(content, str):
        content, path = None, content
    if content is None and path:
        return partial(read, path)
    return lambda: content or b""


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """What ``datasets`` noted of a column of class labels in a parquet file."""
    noted = json.loads(metadata.get(b"huggingface", b"{}"))
    label = noted.get("info", {}).get("features", {}).get("label", {})
    return tuple(label.get("names", ()))


def read_tars(paths: Sequence[Path]) -> Source:
    """The samples of webdataset tars: files that follow each other and share their name up to the first dot."""

    def rows() -> Iterator[Row]:
        for path in paths:
            key = ""
            try:
                with tarfile.open(path) as tar:
                    for sample in _samples(tar):
                        key = sample.key
                        yield from sample.rows(path, tar)
                if path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile takes half a header for the end
                    raise tarfile.ReadError("the file ends in the middle")
            except (tarfile.TarError, OSError, EOFError) as error:  # a shard that was not copied whole
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
    """Members of a tar that share a key, and what each of them is."""

    def __init__(self, key: str, members: Sequence[tarfile.TarInfo]) -> None:
        self.key, self.members = key, members
        self.pictures = [member for member in members if _suffix(member) in PICTURE_SUFFIXES]
        self.picture = self._only(self.pictures)
        self.said = {suffix: self._all(suffix) for suffix in (".json", ".txt", ".cls")}
        known = {*map(id, self.pictures), *(id(member) for found in self.said.values() for member in found)}
        self.unread = [member for member in members if id(member) not in known]

    def _all(self, suffix: str) -> list[tarfile.TarInfo]:
        return [member for member in self.members if _suffix(member) == suffix]

    def _only(self, members: Sequence[tarfile.TarInfo]) -> tarfile.TarInfo | None:
        """The one that is meant, if that is clear: the only one, or the only one with no other dot in its name."""
        plain = [member for member in members if PurePosixPath(member.name).name.count(".") == 1]
        found = members if len(members) == 1 else plain
        return found[0] if len(found) == 1 else None

    def rows(self, path: Path, tar: tarfile.TarFile) -> Iterator[Row]:
        """The picture, if there is one, and whatever is dropped."""
        for member in self.pictures:
            if member is not self.picture:
                others = [other.name for other in self.pictures if other is not member]
                same = f"{others[0]}, …" if others[1:] else others[0]
                reason = (
                    f"its name up to the first dot is that of {same}, which makes them one sample, and a sample has "
                    "one picture: give it a name of its own"
                )
                yield Row(printable(f"{path.name}: {member.name}"), left_out=printable(reason))
        name = printable(f"{path.name}: {self.key}")
        if self.picture is not None:
            columns, faults = self._columns(tar)
            yield Row(name, self._reader(tar, self.picture), columns, faults=tuple(faults))
        elif not self.pictures and not PurePosixPath(self.key).name.upper().startswith(_PAPERS):
            found = ", ".join(member.name for member in self.members)
            reason = f"no picture of a known kind is among {found}; files of one sample must follow each other"
            yield Row(name, left_out=printable(reason))

    def _columns(self, tar: tarfile.TarFile) -> tuple[dict[str, Any], list[str]]:
        columns, faults = dict[str, Any](), list[str]()
        for suffix, members in self.said.items():
            if not members:
                continue
            member = self._only(members)
            if member is None:
                faults.append(f"{members[0].name} and {members[1].name} both speak of it: keep one")
                continue
            try:
                columns |= _said(suffix, decode_text(_read(tar, member), member.name))
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
        raise OSError(f"{member.name} is a link to what is not there") from error
    if file is None:
        raise OSError(f"{member.name} is no file")
    return file.read()


def _said(suffix: str, text: str) -> dict[str, Any]:
    if suffix == ".txt":
        return {"captions": text.split("\n")}
    if suffix == ".cls":
        return {"label": text.strip()}
    said = json.loads(text)
    return said if isinstance(said, dict) else {"json": said} if said else {}


def _fail(reason: str) -> bytes:
    raise OSError(reason)
