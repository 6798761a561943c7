"""Where pictures come from, row by row: what a folder, a shard or a set on the Hub gives to those above.

Everything above sees a `Source`: named rows that can be gone through again, read one by one, so that no set has to fit
in memory. Nothing is passed over in silence: what cannot be taken is a row that says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vqdiff.foundation.images import PictureError

_READ = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff avif avifs jp2 j2k j2c jpx ppm pgm pbm pnm pfm tga qoi"
_UNREAD = "heic heif jxl"  # pictures all the same: they are named as such that cannot be read
PICTURE_SUFFIXES = frozenset(f".{name}" for name in f"{_READ} {_UNREAD}".split())


def _nothing() -> bytes:
    raise PictureError("there is no picture")


@dataclass(frozen=True)
class Row:
    """One picture and what is said about it, or something that is none and should not be passed over in silence."""

    name: str
    """What the picture is called in messages; different for each row of a source."""
    picture: Callable[[], bytes] = _nothing
    """Reads the picture file; may fail for a broken one."""
    columns: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""
    """Why this is no picture to take, if so; others are taken all the same."""
    faults: tuple[str, ...] = ()
    """What is wrong with what is said: no run takes the set."""

    @property
    def is_picture(self) -> bool:
        """Whether there is a picture, broken or not."""
        return self.picture is not _nothing

    def read(self) -> bytes:
        """The picture file; PictureError, or another error of reading, if there is none."""
        if self.left_out:
            raise PictureError(self.left_out)
        return self.picture()


@dataclass(frozen=True)
class Source:
    """Rows that are read only when gone through."""

    rows: Callable[[], Iterator[Row]]
    origin: str
    """Changes with the pictures and with what is said about them."""
    names: Callable[[], list[str]] | None = None
    """All names of pictures, where they can be had without reading every picture."""
    count: int | None = None
    """The number of rows, where it is known beforehand."""
    class_names: tuple[str, ...] = ()
    """What the labels mean, where the set says so."""
    unread: Callable[[], list[str]] = list
    """Names of files that are neither pictures nor read for what is said about one."""


def hidden(name: str | PurePosixPath) -> bool:
    """Whether a file is not meant for people: it, or a folder it is in, begins with a dot, or a system left it."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") and part != ".." for part in parts) or (
        bool(parts) and parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def inside(root: Path, folder: Path, name: str) -> Path | None:
    """The path of a file that is named in ``folder``, a part of ``root``; None if it lies elsewhere."""
    if "\0" in name:  # which no path can have
        return None
    for real in (os.path.abspath, os.path.realpath):
        path, whole = real(os.path.join(folder, name)), real(root)
        if path.startswith(whole.rstrip(os.sep) + os.sep):
            return root / os.path.relpath(path, whole)
    return None


def read_inside(root: Path, folder: Path, name: str) -> bytes:
    """A picture file that a table in ``folder`` names; PictureError for a URL, or a place outside of ``root``."""
    if "://" in name:
        raise PictureError(f"it is a URL, {name}: fetch it, and put the file into the set")
    path = inside(root, folder, name)
    if path is None:
        raise PictureError(f"{name} lies outside of {root}: put the file into the set, and name it from {folder}")
    return path.read_bytes()


def printable(name: str) -> str:
    r"""A file's name as text that can be stored and shown: bytes that are no UTF-8 as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Different class names in their order: numbers first, by value."""
    return tuple(sorted(set(names), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def digest(parts: Iterable[object]) -> str:
    """Twelve hex digits that change with any of ``parts``."""
    return hashlib.sha1(repr(list(parts)).encode()).hexdigest()[:12]


def file_stamps(paths: Iterable[Path], root: Path) -> str:
    """A digest of names, sizes and times of files; a file that is not there counts as such."""
    found = ((Path(os.path.relpath(path, root)).as_posix(), path.stat() if path.exists() else None) for path in paths)
    return digest((name, status and (status.st_size, status.st_mtime_ns)) for name, status in found)
