"""Writing that either happens whole or not at all; reading of JSON, with clear words where it is broken."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqdiff.foundation.errors import InputError

_ROOM, _ROOM_END = ".vqdiff-", ".tmp"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path on which to write; what was written there replaces ``path`` when the block ends well.

    The temporary path has the same name and lies beside ``path``; a file or a folder may be made there. If the block
    fails or is interrupted, it is removed and ``path`` is as it was. Keep the slow work outside the block.

    Raises InputError where ``path`` cannot be written, or is a folder with things in it that the new one does not have.
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
    """A JSON object; InputError if the file is missing or holds anything else."""
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
    """The text of a UTF-8 file, lines ending in a line feed; InputError if it cannot be read, see `decode_text`."""
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def has_lone_surrogates(text: str) -> bool:
    """Whether there is half a character in a text, as JSON escapes and arguments that are not UTF-8 leave it."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def decode_text(content: bytes, name: str) -> str:
    """UTF-8 text, with or without a byte order mark; InputError with the likely encoding of what is none."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(_advice(name, f"byte {error.start} is 0x{content[error.start]:02x}", content)) from error
    if "\0" in text:  # two bytes a letter look so
        raise InputError(_advice(name, f"byte {content.index(0)} is 0", content))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _advice(name: str, reason: str, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        likely = "UTF-16"
    elif all(len(run) % 2 == 0 for run in re.findall(rb"[\x80-\xff]+", content)):
        likely = "GB18030"  # letters beyond ASCII come alone in Europe, in pairs of bytes in China
    else:
        likely = "Latin-1"
    command = f"iconv -f {likely.upper()} -t UTF-8"
    return f"{name} must be UTF-8 text ({reason}): it looks like {likely}; convert it, as with `{command}`"


def check_writable(path: str | Path) -> None:
    """Raise InputError now, not after the work, if the file ``path`` could not be written."""
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"cannot write {path}: it is no ordinary file; name another")
    with _room_beside(Path(path)):
        pass


def check_replaceable(folder: str | Path) -> None:
    """Raise InputError now, not after the work, if the folder could not be made, or is a file."""
    if Path(folder).is_file():
        raise InputError(f"cannot write the folder {folder}: it is a file; name another")
    with _room_beside(Path(folder)):
        pass


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and those above it; InputError if something is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror or error}; name another") from error


def clear_rooms(folder: Path) -> None:
    """Remove what writers into ``folder`` left that were killed; none may be at work there."""
    for room in folder.glob(f"{_ROOM}*{_ROOM_END}"):
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _room_beside(path: Path) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix=_ROOM, suffix=_ROOM_END, dir=path.parent) as room:
            yield Path(room)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name a place in an existing, writable folder"
        ) from error


def release(value: Any) -> None:
    """Let go of the memory of a tensor that lies in a file; it stays valid, and is read again if it is used again.

    The pages of a mapped file would else pile up beside the copies made of them, a second model in memory. A hint to
    Linux (``MADV_PAGEOUT``), which loses nothing in any memory; elsewhere nothing happens.
    """
    page = mmap.PAGESIZE
    start = -(-value.data_ptr() // page) * page
    length = (value.data_ptr() + value.nbytes) // page * page - start
    if sys.platform == "linux" and value.device.type == "cpu" and length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 21)


def trim() -> None:
    """Give the system back what was freed: between large tensors that stay, glibc would keep it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
