"""Folders of image files, with captions and labels in tables, text files or the names of sub-folders."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vqdiff.data.rows import captions_of
from vqdiff.data.sources import IMAGE_SUFFIXES, Row, Source, file_stamps, hidden, inside, order_classes, printable
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import read_text

_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.json")


def list_files(folder: Path) -> list[PurePosixPath]:
    """List the files in a folder and its sub-folders, except hidden ones; relative to the folder, sorted."""
    found = (PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*"))
    return sorted(file for file in found if not hidden(file))


def read_folder(folder: Path, root: Path, files: Sequence[PurePosixPath]) -> Source:
    """Read the images of ``root``, which is ``folder`` or a split in it.

    files: paths as from `list_files`, relative to ``folder``: all below ``root``, and tables that may describe it.
    """
    found = [folder / file for file in files]
    below = [path for path in found if path.is_relative_to(root)]
    pictures = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
    tables = [path for path in found if path.name.lower() in _TABLES]
    described = _Described(folder, root, tables)
    texts = {path.with_suffix(""): path for path in below if path.suffix.lower() == ".txt" and path.suffix != ".txt"}
    texts |= {path.with_suffix(""): path for path in below if path.suffix == ".txt"}
    beside = {path: text for path in pictures if (text := texts.get(path.with_suffix(""), texts.get(path)))}
    paths, classes = list(dict.fromkeys([*described.columns, *pictures])), dict[Path, str]()
    if not tables and not beside:
        classes = {path: printable(path.relative_to(root).parts[0]) for path in pictures if path.parent != root}
        if 2 * len(classes) <= len(pictures) or (len(set(classes.values())) < 2 and len(classes) < len(pictures)):
            classes = {}  # no class folders; a few images beside many class folders have no class

    def row(path: Path) -> Row:
        columns, faults = dict(described.columns.get(path, {})), list[str]()
        if path in classes:
            columns["label"] = classes[path]
        if path in beside and not captions_of(columns):
            try:
                columns["captions"] = read_text(beside[path]).split("\n")
            except InputError as error:
                faults.append(str(error))
        return Row(printable(path.relative_to(root).as_posix()), path.read_bytes, columns, faults=tuple(faults))

    def rows() -> Iterator[Row]:
        yield from described.faults
        yield from map(row, paths)

    def unread() -> list[str]:
        read = {*pictures, *tables, *beside.values(), *described.columns}
        return [
            printable(path.relative_to(root).as_posix()) for path in below if path not in read and not path.is_dir()
        ]

    return Source(
        rows,
        file_stamps([*paths, *tables, *(beside.get(path, path.with_suffix(".txt")) for path in pictures)], root),
        lambda: [printable(path.relative_to(root).as_posix()) for path in paths],
        len(paths) + len(described.faults),
        order_classes(classes.values()),
        unread,
    )


class _Described:
    """The columns that tables give for the files below ``root``, and a row for each unusable entry."""

    def __init__(self, folder: Path, root: Path, tables: Sequence[Path]) -> None:
        self.columns = dict[Path, dict[str, Any]]()
        self.faults = list[Row]()
        for table in tables:
            name = table.relative_to(folder).as_posix()
            for entry in _entries(table, name):
                file = entry.file
                if os.sep == "/" and "\\" in file and not os.path.exists(table.parent / file):
                    file = file.replace("\\", "/")  # written on Windows
                path = None if entry.fault else inside(folder, table.parent, file)
                if path is None:
                    fault = entry.fault or (
                        f"names {entry.file}, which lies outside of {folder}: name files relative to the table's folder"
                    )
                    self.faults.append(Row(printable(entry.name), faults=(fault,)))
                elif path.is_relative_to(root):
                    self._add(path, entry.columns)

    def _add(self, path: Path, columns: dict[str, Any]) -> None:
        """Several entries for one file are merged: each may add a caption."""
        if path in self.columns:
            captions = dict.fromkeys(captions_of(self.columns[path]) + captions_of(columns))
            columns = self.columns[path] | columns | {"captions": list(captions)}
        self.columns[path] = columns


@dataclass(frozen=True)
class _Entry:
    name: str
    file: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def _entries(table: Path, name: str) -> Iterator[_Entry]:
    """Yield the entries of a table; what cannot be read is an entry with a fault."""
    try:
        text = read_text(table)
        found = _split(text, table.suffix.lower())
        for number, given in enumerate(found, 1):
            yield _entry(f"{name} entry {number}", given)
    except (InputError, csv.Error) as error:
        yield _Entry(name, fault=str(error))


def _split(text: str, suffix: str) -> Iterable[Any]:
    """The entries of a table: objects, or lines that should each hold one."""
    if suffix == ".csv":
        return csv.DictReader(io.StringIO(text, newline="\n"))
    if suffix == ".jsonl":
        return filter(str.strip, text.split("\n"))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON: {error}") from error
    if not isinstance(whole, list):
        raise InputError(
            'it must be a list of objects such as {"file_name": ..., "caption": ...}; rename it if it is not a table'
        )
    return whole


def _entry(name: str, given: Any) -> _Entry:
    try:
        row = dict(json.loads(given)) if isinstance(given, str) else dict(given)
        file = row.pop("file_name")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return _Entry(name, fault=f'must name a file, as in {{"file_name": ..., "caption": ...}}: {error!r}')
    if not isinstance(file, str) or not file.strip():
        return _Entry(name, fault=f"must name a file: its file_name is {file!r}")
    if None in row:  # in a CSV file
        return _Entry(
            name, fault=f"has more values than there are columns: {row[None]}; quote texts with commas in them"
        )
    return _Entry(name, file, row)
