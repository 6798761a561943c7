"""Sources of images, row by row: folders, shards and data sets on the Hub.

Other modules see only a `Source`: named rows that can be iterated repeatedly and are read one by one, so that no set
has to fit in memory. Nothing is skipped silently: what cannot be used is a row that says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vqdiff.foundation.images import ImageError

_READ = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff avif avifs jp2 j2k j2c jpx ppm pgm pbm pnm pfm tga qoi"
_UNREAD = "heic heif jxl"  # also images: they are reported as unreadable
IMAGE_SUFFIXES = frozenset(f".{name}" for name in f"{_READ} {_UNREAD}".split())


def _nothing() -> bytes:
    raise ImageError("there is no image")


@dataclass(frozen=True)
class Row:
    """One image with its columns, or an entry without an image that should be reported."""

    name: str
    """The name of the image in messages; unique within a source."""
    picture: Callable[[], bytes] = _nothing
    """Reads the image file; may raise for a broken one."""
    columns: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""
    """Why this row is left out, if it is; the other rows are used."""
    faults: tuple[str, ...] = ()
    """Faults in the columns: a run rejects the set."""

    @property
    def is_image_file(self) -> bool:
        """Whether there is an image, broken or not."""
        return self.picture is not _nothing

    def read(self) -> bytes:
        """Read the image file; ImageError, or another error of reading, if there is none."""
        if self.left_out:
            raise ImageError(self.left_out)
        return self.picture()


@dataclass(frozen=True)
class Source:
    """Rows that are read only when iterated."""

    rows: Callable[[], Iterator[Row]]
    origin: str
    """A digest that changes with the images and their columns."""
    names: Callable[[], list[str]] | None = None
    """All names of images, if they are known without reading every image."""
    count: int | None = None
    """The number of rows, if it is known beforehand."""
    class_names: tuple[str, ...] = ()
    """The names of the labels, if the set has them."""
    unread: Callable[[], list[str]] = list
    """Names of files that are neither images nor describe one."""


def hidden(name: str | PurePosixPath) -> bool:
    """Whether a file is hidden: it, or a folder it is in, begins with a dot, or the operating system made it."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") and part != ".." for part in parts) or (
        bool(parts) and parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def inside(root: Path, folder: Path, name: str) -> Path | None:
    """The path of ``name`` relative to ``folder``, which is inside ``root``; None if it is outside of ``root``."""
    if "\0" in name:  # not allowed in paths
        return None
    for real in (os.path.abspath, os.path.realpath):
        path, whole = real(os.path.join(folder, name)), real(root)
        if path.startswith(whole.rstrip(os.sep) + os.sep):
            return root / os.path.relpath(path, whole)
    return None


def read_inside(root: Path, folder: Path, name: str) -> bytes:
    """Read an image file named by a table in ``folder``; ImageError for a URL, or a path outside of ``root``."""
    if "://" in name:
        raise ImageError(f"it is a URL, {name}: download it, and put the file into the set")
    path = inside(root, folder, name)
    if path is None:
        raise ImageError(f"{name} is outside of {root}: put the file into the set, and name it relative to {folder}")
    return path.read_bytes()


def printable(name: str) -> str:
    r"""A file's name as text that can be stored and printed: bytes that are not UTF-8 as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sort the distinct class names: numbers first, by value."""
    return tuple(sorted(set(names), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def digest(parts: Iterable[object]) -> str:
    """Twelve hex digits of a hash of ``parts``."""
    return hashlib.sha1(repr(list(parts)).encode()).hexdigest()[:12]


def file_stamps(paths: Iterable[Path], root: Path) -> str:
    """A digest of names, sizes and times of files; missing files are included as missing."""
    found = ((Path(os.path.relpath(path, root)).as_posix(), path.stat() if path.exists() else None) for path in paths)
    return digest((name, status and (status.st_size, status.st_mtime_ns)) for name, status in found)
