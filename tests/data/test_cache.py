"""Caches: broken pictures are left out, stopped runs go on, and memory stays flat."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from PIL import Image

from picture_sets import encoded, numbered, picture, shades, truncated_jpeg, with_metadata
from vqdiff.data import load
from vqdiff.data.cache import Cache, make_cache
from vqdiff.data.sources import Row, Source
from vqdiff.foundation.errors import InputError


def source_of(number: int, reads: list[int] | None = None) -> Source:
    """``number`` pictures, every fifth of which is broken; ``reads`` notes which files are read."""

    def read(shade: int) -> bytes:
        if reads is not None:
            reads.append(shade)
        return b"broken" if shade % 5 == 4 else encoded(shade)

    def rows() -> Iterator[Row]:
        for shade in range(number):
            columns = {"caption": f"number {shade}"} | ({"late": 1} if shade > 20 else {})
            yield Row(f"{shade}.png", lambda shade=shade: read(shade), columns)

    return Source(rows, "origin")


def shade_of(picture: Image.Image, name: str) -> np.ndarray:
    del name
    return np.asarray(picture)[0, 0]


def made(folder, source, work=lambda stack: stack[:, 0].astype(np.int32), about="a") -> Cache:
    """A cache of four images per batch, whose progress is recorded after each."""
    return make_cache(
        folder, source, {"about": about}, shade_of, work, batch_size=4, description="Working", record_every=0.0
    )


def test_broken_pictures_are_left_out_and_named(tmp_path, capsys):
    folder = with_metadata(tmp_path / "train", numbered(6))
    with_metadata(tmp_path / "test", numbered(1))
    (folder / "01.png").write_bytes(truncated_jpeg())
    (folder / "02.png").write_bytes(b"no picture")
    (folder / "03.png").write_bytes(b"")
    (folder / "04.png").unlink()
    for _ in range(2):  # made, then opened
        train = load(tmp_path, "train", 16)
        assert (shades(train), train.captions) == ([0, 5], [["number 0"], ["number 5"]])
        assert list(train.names) == ["00.png", "05.png"]
        assert capsys.readouterr().err == (
            f"warning: {tmp_path} train: 4 of 6 images cannot be read and are left out: 01.png, 02.png, 03.png, …\n"
        )


def test_a_set_of_broken_pictures_only(tmp_path):
    folder = with_metadata(tmp_path / "test", numbered(2))
    for path in folder.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"no image can be read; 00\.png: it is not an image"):
        load(tmp_path, "test", 16)
    assert not list((tmp_path / ".cache").glob("test*"))


def test_rows_and_columns_go_with_their_pictures(tmp_path):
    cache = made(tmp_path / "cache", source_of(30))
    kept = [shade for shade in range(30) if shade % 5 != 4]
    assert cache.array.dtype == np.int32
    assert isinstance(cache.array, np.memmap)
    assert cache.array.tolist() == kept
    assert cache.table["_captions"].to_pylist() == [[f"number {shade}"] for shade in kept]
    assert cache.table["late"].to_pylist() == [1 if shade > 20 else None for shade in kept]
    assert [name for name, _ in cache.broken] == ["4.png", "9.png", "14.png", "19.png", "24.png", "29.png"]


@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_stopped_run_goes_on(tmp_path, stop):
    """Whatever batch it stops in, the result is that of a run which was never stopped, and no batch is made twice."""
    whole = made(tmp_path / "whole", source_of(30))
    batches, worked = count(), list[int]()

    def work(stack: np.ndarray) -> np.ndarray:
        if next(batches) == stop:
            raise KeyboardInterrupt
        worked.extend(stack[:, 0].tolist())
        return stack[:, 0].astype(np.int32)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "cache", source_of(30), work)
    assert not (tmp_path / "cache").exists()
    assert len(worked) < 24
    cache = made(tmp_path / "cache", source_of(30), work)
    assert worked == cache.array.tolist() == whole.array.tolist()
    assert cache.table.equals(whole.table)
    assert cache.broken == whole.broken
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["about.json", "array.npy", "rows.arrow"]


def test_half_written_rows_do_not_count(tmp_path):
    """Killed between writing an array and recording the progress: the array's tail is written again."""
    progress, batches, recorded = tmp_path / "cache.part" / "progress.json", count(), list[bytes]()

    def killed(stack: np.ndarray) -> np.ndarray:
        if next(batches) == 3:
            raise KeyboardInterrupt
        recorded.append(progress.read_bytes() if progress.exists() else b"")
        return stack[:, 0].astype(np.int32)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "cache", source_of(30), killed)
    assert recorded[-1] != progress.read_bytes()
    progress.write_bytes(recorded[-1])  # the array is a batch longer than this says
    assert (tmp_path / "cache.part" / "array.npy").stat().st_size > 128
    assert made(tmp_path / "cache", source_of(30)).array.tolist() == [n for n in range(30) if n % 5 != 4]


def test_other_things_are_not_mixed(tmp_path):
    made(tmp_path / "cache", source_of(3))
    with pytest.raises(InputError, match="cache was made with another about: remove it"):
        made(tmp_path / "cache", source_of(3), about="b")
    with pytest.raises(KeyboardInterrupt):
        made(
            tmp_path / "other", source_of(30), lambda stack: _raise(KeyboardInterrupt()) if stack[0, 0] else stack[:, 0]
        )
    with pytest.raises(InputError, match=r"other\.part is unfinished and was made from something else"):
        made(tmp_path / "other", source_of(30), about="b")


def test_a_full_disk(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=r"stopped after 4 images: .*No space left on device; run again"):
        made(tmp_path / "cache", source_of(30), lambda stack: stack[:, 0] if stack[0, 0] < 4 else _raise(full))
    assert len(made(tmp_path / "cache", source_of(30)).array) == 24


def _raise(error: BaseException):
    raise error


def test_several_at_once_make_it_once(tmp_path):
    reads = list[int]()
    threads = [threading.Thread(target=made, args=(tmp_path / "cache", source_of(20, reads))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == list(range(20))


def test_memory_stays_flat(tmp_path):
    """Ten times the pictures, the same memory: here 16 MB of arrays pass through less than 4."""

    def rows(number: int) -> Iterator[Row]:
        content = encoded(1, size=(8, 8))
        return (Row(str(n), lambda: content, {}) for n in range(number))

    peaks = []
    for number in (40, 400):
        tracemalloc.start()
        make_cache(
            tmp_path / str(number), Source(lambda number=number: rows(number), "x"), {},
            lambda picture, name: np.zeros((40_000,), np.uint8), lambda stack: stack,
            batch_size=8, description="Working",
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4e6
    assert peaks[1] < 1.5 * peaks[0]


def test_pictures_that_cannot_be_written_beside_are_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    picture(3).save(folder / "a.png")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert shades(load(tmp_path / "set", "test", 16)) == [3]
    assert not (tmp_path / "set" / ".cache").exists()
    assert list((tmp_path / "user").rglob("array.npy"))
