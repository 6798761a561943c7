"""Atomic writing of files and folders, and reading of JSON and text with clear errors."""

from __future__ import annotations

import codecs
import ctypes
import json
import mmap
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS leaves in place of one that was not downloaded."""
ON_WINDOWS = os.name == "nt"
_ROOM, _ROOM_END = ".vqdiff-", ".tmp"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces ``path`` when the block ends without an error.

    The temporary path has the same name, in a temporary folder beside ``path``; a file or a folder may be created
    there. If the block fails or is interrupted, it is removed and ``path`` is unchanged. Keep slow work outside the
    block.

    Raises InputError if ``path`` cannot be written, or is a folder with entries that the new one does not have.
    """
    path = Path(path)
    with _room_beside(path) as room:
        temporary = room / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():
            if strangers := {entry.name for entry in path.iterdir()} - {entry.name for entry in temporary.iterdir()}:
                raise InputError(f"cannot replace the folder {path}: it also holds {min(strangers)}; name a new folder")
            old = path.rename(room / f"{path.name}.old")  # a folder can only be moved onto an empty one
            try:
                os.replace(temporary, path)
            except BaseException:
                old.rename(path)
                raise
        else:
            os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError if the file is missing or contains anything else."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the folder is incomplete, or of another kind") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} cannot be read: it holds a {type(values).__name__}, not an object")
    return values


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with line feeds as line ends; raises InputError if it cannot be read, see `decode_text`."""
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def has_lone_surrogates(text: str) -> bool:
    """Whether a text has a lone surrogate, as from JSON escapes or arguments that are not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8 text, with or without a byte order mark; raises InputError, with the likely encoding, for others."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(_advice(name, f"byte {error.start} is 0x{content[error.start]:02x}", content)) from error
    if "\0" in text:  # as in encodings with two bytes per letter
        raise InputError(_advice(name, f"byte {content.index(0)} is 0", content))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _advice(name: str, reason: str, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        likely = "UTF-16"
    elif all(len(run) % 2 == 0 for run in re.findall(rb"[\x80-\xff]+", content)):
        likely = "GB18030"  # GB18030 has pairs of bytes beyond ASCII, Latin-1 mostly single ones
    else:
        likely = "Latin-1"
    command = f"iconv -f {likely.upper()} -t UTF-8"
    return f"{name} must be UTF-8 text ({reason}): it looks like {likely}; convert it, as with `{command}`"


def check_writable(path: str | Path) -> None:
    """Raise InputError before the work, not after it, if the file ``path`` cannot be written."""
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"cannot write {path}: it is not a regular file; name another")
    with _room_beside(Path(path)):
        pass


def check_replaceable(folder: str | Path) -> None:
    """Raise InputError before the work, not after it, if the folder cannot be created, or is a file."""
    if Path(folder).is_file():
        raise InputError(f"cannot write the folder {folder}: it is a file; name another")
    with _room_beside(Path(folder)):
        pass


def make_folder(path: Path) -> None:
    """Create the folder ``path`` and its parents; raises InputError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror or error}; name another") from error


def clear_rooms(folder: Path) -> None:
    """Remove the temporary folders that killed writers left in ``folder``; no writer may be active there."""
    for room in folder.glob(f"{_ROOM}*{_ROOM_END}"):
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _room_beside(path: Path) -> Iterator[Path]:
    if ON_WINDOWS and _is_reserved(path.name):
        raise InputError(f"cannot write {path}: Windows reserves this name; choose another")
    try:
        with tempfile.TemporaryDirectory(prefix=_ROOM, suffix=_ROOM_END, dir=path.parent) as room:
            yield Path(room)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "make room" if "No space left" in reason else "name a path in an existing, writable folder"
        raise InputError(f"cannot write {path}: {reason}; {advice}") from error


def _is_reserved(name: str) -> bool:
    """Whether Windows would write to a device, or drop a part of the name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its successor comes with Python 3.13
        device = PureWindowsPath(name).is_reserved()
    return device or name.endswith((".", " ")) or any(letter in '<>:"|?*' for letter in name)


def release(value: Tensor) -> None:
    """Release the memory of a tensor that is mapped from a file; it stays valid, and is read again when used.

    Otherwise the pages of a mapped file would accumulate beside the copies made of them, a second model in memory. A
    hint to Linux (``MADV_PAGEOUT``), which loses no data; on other systems nothing happens.
    """
    page = mmap.PAGESIZE
    start = -(-value.data_ptr() // page) * page
    length = (value.data_ptr() + value.nbytes) // page * page - start
    if sys.platform == "linux" and value.device.type == "cpu" and length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 21)


def trim() -> None:
    """Return freed memory to the system, which glibc would keep between large tensors that stay."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
