"""Pictures with captions as arrays, ready for training."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vqdiff.data.sources import CAPTION_COLUMNS, Source, find_splits, join
from vqdiff.errors import InputError
from vqdiff.files import atomic_path

Pixels = NDArray[np.uint8]
Weights = NDArray[np.float64]

_HELD_OUT = 0.02  # of a folder that has no test split
_SHOW_PROGRESS = 2000  # pictures to decode


@dataclass(frozen=True)
class PictureSet:
    """One split of a folder of pictures."""

    pixels: Pixels
    """``(N, H, W, 3)``, memory-mapped where the folder can hold a cache."""
    captions: list[list[str]]
    """At least one for each picture."""
    columns: dict[str, NDArray[Any]]
    """Whatever else the folder says about each picture, such as ``style`` and ``role``; each ``(N,)``."""
    weights: Weights
    """How often to draw each picture in training; ``(N,)``, sums to 1."""

    def __len__(self) -> int:
        return len(self.captions)


def load(folder: str | Path, split: str, image_size: int) -> PictureSet:
    """Load the pictures of one split as squares of ``image_size`` pixels.

    `vqdiff.data.sources.find_splits` says how a folder may be laid out. ``split`` may be the beginning of a name:
    ``"test"`` takes ``test_comp`` and ``test_style``. Of a folder with nothing but ``train``, a fixed 2 % of the
    pictures are ``test``. Pictures are put on white, cropped to the middle square and resized; the result is kept in
    ``folder/.cache``. Weights are the column ``weight``, or `sampling_weights` of the column ``role``, or equal.

    Raises InputError for a missing folder, no pictures, an unknown split, an unreadable picture, a missing caption.
    """
    folder = Path(folder)
    source = _find(folder, split)
    captions = source.captions()
    if missing := [name for name, texts in zip(source.names, captions, strict=True) if not texts]:
        raise InputError(
            f"{folder}: {missing[0]} has no caption ({len(missing)} such pictures of {len(captions)}); "
            f"`vqdiff data check {folder}` lists them"
        )
    columns = {name: _array(values) for name, values in source.columns.items() if name not in CAPTION_COLUMNS}
    return PictureSet(_pixels(folder, split, source, image_size), captions, columns, _weights(columns, len(captions)))


def sampling_weights(roles: Sequence[Any] | NDArray[Any]) -> Weights:
    """Weigh a row with 1/√(rows of the same role), so that roles with many rows do not take over; sums to 1."""
    _, role, counts = np.unique(np.asarray(roles), return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(counts[role])
    return weights / weights.sum()


def check(
    folder: str | Path, track: Callable[[Iterable[Any], str, int], Iterable[Any]]
) -> tuple[dict[str, int], list[str]]:
    """Read every picture and caption; returns the number of pictures in each split and a line for each fault."""
    faults = list[str]()
    counts = dict[str, int]()
    for split, read in find_splits(Path(folder)).items():
        source = read()
        counts[split] = len(source.names)
        rows = zip(source.names, source.captions(), source.pictures(), strict=True)
        for name, captions, picture in track(rows, f"Checking {split}", len(source.names)):
            if not captions:
                faults.append(f"{split}: {name} has no caption")
            try:
                _decode(picture)
            except _PICTURE_ERRORS as error:
                faults.append(f"{split}: {name} cannot be read: {error}")
    return counts, faults


def _find(folder: Path, split: str) -> Source:
    splits = find_splits(folder)
    if split in ("train", "test") and list(splits) == ["train"]:
        return _hold_out(splits["train"](), test=split == "test")
    found = [read for name, read in splits.items() if name == split or name.startswith(f"{split}_")]
    if not found:
        raise InputError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    return join([read() for read in found])


def _hold_out(source: Source, *, test: bool) -> Source:
    """Set aside the pictures whose names have the smallest hashes."""
    if len(source.names) < 2:
        raise InputError("one picture cannot be divided into train and test; add pictures or make two sub-folders")
    order = sorted(range(len(source.names)), key=lambda row: hashlib.sha1(source.names[row].encode()).digest())
    held_out = set(order[: max(1, round(_HELD_OUT * len(order)))])
    return source.select([(row in held_out) == test for row in range(len(order))])


def _pixels(folder: Path, split: str, source: Source, size: int) -> Pixels:
    """Decode the pictures, or map them from the cache."""
    stamps = [(str(path.relative_to(folder)), *_stamp(path)) for path in source.files]
    key = hashlib.sha1(repr((stamps, len(source.names))).encode()).hexdigest()[:12]
    cache = folder / ".cache" / f"{split}-{size}-{key}.npy"
    if cache.exists():
        return np.load(cache, mmap_mode="r")
    if not os.access(folder, os.W_OK):
        return _decode_all(source, np.empty((len(source.names), size, size, 3), np.uint8))
    cache.parent.mkdir(exist_ok=True)
    with atomic_path(cache) as path:
        shape = (len(source.names), size, size, 3)
        _decode_all(source, np.lib.format.open_memmap(path, "w+", np.uint8, shape)).flush()
    for stale in set(cache.parent.glob(f"{split}-{size}-*.npy")) - {cache}:
        stale.unlink()
    return np.load(cache, mmap_mode="r")


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        return (0, 0)
    status = path.stat()
    return (status.st_size, status.st_mtime_ns)


def _decode_all(source: Source, pixels: Any) -> Any:
    from rich.console import Console
    from rich.progress import track

    names: Iterable[str] = source.names
    if len(source.names) > _SHOW_PROGRESS:
        console = Console(stderr=True)
        names = track(names, "Decoding pictures", console=console, disable=not console.is_terminal)
    for row, (name, picture) in enumerate(zip(names, source.pictures(), strict=True)):
        try:
            pixels[row] = _square(_decode(picture), pixels.shape[1])
        except _PICTURE_ERRORS as error:
            raise InputError(f"cannot read the picture {name}: {error}; replace or remove it") from error
    return pixels


_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


def _decode(picture: bytes | Path) -> Image.Image:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    # Whole factors are averaged exactly; Lanczos would ring at the hard edges of flat drawings.
    whole = min(image.size) % size == 0
    return ImageOps.fit(image, (size, size), Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)


def _array(values: Sequence[Any]) -> NDArray[Any]:
    if {type(value) for value in values} <= {str} or {type(value) for value in values} <= {int, float, bool}:
        return np.asarray(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _weights(columns: dict[str, NDArray[Any]], rows: int) -> Weights:
    if "weight" not in columns:
        return sampling_weights(columns.get("role", np.arange(rows)))
    try:
        weights = columns["weight"].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the column 'weight' must hold a number for each picture: {error}") from error
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError("the column 'weight' must hold finite numbers >= 0, not all of them 0")
    return weights / weights.sum()
