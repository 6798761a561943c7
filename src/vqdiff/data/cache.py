"""Arrays that are made once from the images of a source and memory-mapped afterwards.

A cache is a folder with ``array.npy``, ``rows.arrow`` (captions, labels and other columns) and ``about.json``. It is
made batch by batch, so memory use is constant, in a temporary folder beside it that is renamed at the end. An
interrupted run continues from the last recorded batch. An image that cannot be read is left out, and recorded.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqdiff.data.rows import Table, join_tables, open_table, sound, to_table, write_table
from vqdiff.data.sources import Row, Source
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, make_folder
from vqdiff.foundation.images import ImageError, decode
from vqdiff.foundation.progress import track

_AHEAD = 2  # batches that are decoded while another is in use
RECORD_EVERY = 30.0
"""Seconds of work that an interruption can lose."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """A finished cache."""

    array: NDArray[Any]
    table: Table
    about: dict[str, Any]
    """A description of what it was made from, as given to `make_cache`."""
    broken: list[tuple[str, str]]
    """The images that were left out, and why."""
    class_names: tuple[str, ...]

    def warn(self, where: str) -> None:
        """Print one line to stderr that names the images that were left out, if any."""
        if self.broken:
            names = ", ".join(name for name, _ in self.broken[:3]) + (", …" if len(self.broken) > 3 else "")
            count = f"{len(self.broken):,} of {len(self.broken) + len(self.array):,} images"
            print(f"warning: {where}: {count} cannot be read and are left out: {names}", file=sys.stderr, flush=True)


def open_cache(folder: Path) -> Cache | None:
    """Map a finished cache into memory; None if there is none."""
    if not (folder / "about.json").exists():
        return None
    notes = json.loads((folder / "about.json").read_text("utf-8"))
    return Cache(
        np.load(folder / "array.npy", mmap_mode="r"),
        open_table(folder / "rows.arrow"),
        notes["about"],
        [(name, error) for name, error in notes["broken"]],
        tuple(notes["class_names"]),
    )


def make_cache(
    folder: Path,
    source: Source,
    about: dict[str, Any],
    prepare: Callable[[Image.Image, str], NDArray[np.uint8]],
    work: Callable[[NDArray[np.uint8]], NDArray[Any]],
    *,
    batch_size: int,
    description: str,
    record_every: float = RECORD_EVERY,
) -> Cache:
    """Open the cache in ``folder``, or make it if it is not there.

    ``prepare(picture, name)`` makes an array of a decoded image, in threads; ``work`` maps a stack of ``batch_size`` of
    them to ``(B, …)``. ``about`` (plain JSON values) describes what the result depends on. The progress is
    recorded every ``record_every`` seconds. One process at a time makes a cache; others wait and then open it.

    Raises InputError if ``folder`` holds a cache, finished or not, that was made from something else, if no image can
    be read, and if the disk is full.
    """
    from filelock import FileLock

    make_folder(folder.parent)
    with FileLock(folder.parent / ".lock"):
        cache = open_cache(folder)
        if cache is None:
            filling = _Filling(folder, source, about)
            try:
                done = filling.fill(prepare, work, batch_size, record_every)
                left = None if source.count is None else source.count - filling.read
                for _ in track(done, description, left):
                    pass
                filling.finish()
            except InputError:
                filling.forget()
                raise
            except OSError as error:  # a full disk, a lost connection
                raise InputError(
                    f"{folder}: stopped after {filling.read:,} images: {error}; run again to continue from there"
                ) from error
            cache = open_cache(folder)
            assert cache is not None  # it was just made
    if cache.about != about:
        raise InputError(_other(folder, cache.about, about))
    return cache


def _other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return f"{folder} was made with another {' and '.join(different)}: remove it or name another folder"


class _Filling:
    """An unfinished cache: a growing ``array.npy``, rows in numbered files, and the counts in ``progress.json``."""

    def __init__(self, folder: Path, source: Source, about: dict[str, Any]) -> None:
        self.folder, self.source, self.about = folder, source, about
        self.part = folder.with_name(f"{folder.name}.part")
        self.read, self.kept, self.files = 0, 0, 0
        self.broken: list[tuple[str, str]] = []
        self.names: list[str] = []
        self.columns: list[dict[str, Any]] = []
        self.shape: list[int] = []
        self.dtype = ""
        if (self.part / "progress.json").exists():
            notes = json.loads((self.part / "progress.json").read_text("utf-8"))
            if notes.pop("about") != about:
                raise InputError(f"{self.part} is unfinished and was made from something else: remove it")
            vars(self).update(notes)
        else:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir()

    def fill(
        self,
        prepare: Callable[[Image.Image, str], NDArray[np.uint8]],
        work: Callable[[NDArray[np.uint8]], NDArray[Any]],
        batch_size: int,
        record_every: float,
    ) -> Iterator[str]:
        """Do the remaining work; yield the name of each image that is done."""
        noted = time.monotonic()
        with (self.part / "array.npy").open("r+b" if self.kept else "w+b") as file:
            if self.kept:
                file.truncate(self._header(file) + self.kept * self._row_bytes())
                file.seek(0, io.SEEK_END)
            rows = islice(sound(self.source.rows()), self.read, None)
            for batch in ahead(rows, lambda row: prepare(decode(row.read()), row.name), batch_size):
                good = [(row, array) for row, array in batch if not isinstance(array, ImageError)]
                if good:
                    made = work(np.stack([array for _, array in good]))
                    if not self.dtype:
                        self.shape, self.dtype = list(made.shape[1:]), made.dtype.str
                        self._header(file)
                    file.write(np.ascontiguousarray(made).data)
                    self.kept += len(made)
                    self.names += [row.name for row, _ in good]
                    self.columns += [row.columns for row, _ in good]
                self.broken += [(row.name, str(array)) for row, array in batch if isinstance(array, ImageError)]
                self.read += len(batch)
                if time.monotonic() - noted >= record_every:
                    file.flush()
                    self._note()
                    noted = time.monotonic()
                yield from (row.name for row, _ in batch)
            if self.kept:
                self._header(file)
        self._note()

    def finish(self) -> None:
        """Finish the files and move the cache to its folder."""
        if not self.kept:
            shutil.rmtree(self.part)
            what = f"{self.broken[0][0]}: {self.broken[0][1]}" if self.broken else "there are none"
            raise InputError(f"{self.folder.name}: no image can be read; {what}")
        files = [self.part / f"rows-{number}.arrow" for number in range(self.files)]
        write_table(join_tables([open_table(file) for file in files]), self.part / "rows.arrow")
        notes = {"about": self.about, "broken": self.broken, "class_names": self.source.class_names}
        (self.part / "about.json").write_text(json.dumps(notes, indent=2), "utf-8")
        self.part.rename(self.folder)
        for name in (*(file.name for file in files), "progress.json"):  # needed until the end
            (self.folder / name).unlink()

    def forget(self) -> None:
        """Remove what the next run could not continue from."""
        if not (self.part / "progress.json").exists():
            shutil.rmtree(self.part, ignore_errors=True)

    def _note(self) -> None:
        """Record the progress, so that the work can continue from here."""
        if self.names:
            table = to_table(self.names, self.columns, self.source.class_names)
            write_table(table, self.part / f"rows-{self.files}.arrow")
            self.files += 1
            self.names, self.columns = [], []
        names = ("about", "read", "kept", "files", "broken", "shape", "dtype")
        with atomic_path(self.part / "progress.json") as path:
            path.write_text(json.dumps({name: getattr(self, name) for name in names}), "utf-8")

    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def _header(self, file: IO[bytes]) -> int:
        """Write the header for the current number of rows (NumPy leaves room for it to grow); return its length."""
        file.seek(0)
        header = {"descr": self.dtype, "fortran_order": False, "shape": (self.kept, *self.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()


def ahead(rows: Iterator[Row], work: Callable[[Row], T], batch_size: int) -> Iterator[list[tuple[Row, T | ImageError]]]:
    """Yield batches of rows with the result of ``work`` for each, or the error of its image.

    Threads work on the next batches (reading and decoding images releases the interpreter) while one is in use.
    """

    def one(row: Row) -> T | ImageError:
        try:
            return work(row)
        except ImageError as error:
            return error
        except InputError:  # not only about this image
            raise
        except (OSError, ValueError) as error:  # from reading the file
            return ImageError(str(error))

    with ThreadPoolExecutor() as pool:
        waiting = deque()
        while batch := list(islice(rows, batch_size)):
            waiting.append((batch, pool.map(one, batch)))
            if len(waiting) > _AHEAD:
                yield list(zip(*waiting.popleft(), strict=True))
        while waiting:
            yield list(zip(*waiting.popleft(), strict=True))
