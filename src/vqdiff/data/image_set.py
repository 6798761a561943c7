"""Images of one size as an array, ready for training."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vqdiff.data.cache import make_cache
from vqdiff.data.rows import Rows, describe
from vqdiff.data.sources import digest
from vqdiff.data.splits import HELD_OUT, find

Pixels = NDArray[np.uint8]

_BATCH = 64  # images decoded together
_DECODING = 2  # increase it when the decoding of images changes


@dataclass(frozen=True, kw_only=True)
class ImageSet(Rows):
    """The images of one split with their captions, labels and other columns."""

    pixels: Pixels
    """``(N, H, W, 3)``, memory-mapped."""


def load(
    data: str | Path,
    split: str,
    image_size: int,
    class_names: tuple[str, ...] = (),
    *,
    validation: float = HELD_OUT,
    cache: Path | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Load the images of one split as squares of ``image_size`` pixels.

    `vqdiff.data.splits.find_splits` describes what ``data`` may be. ``split`` may be the prefix of a name: ``"test"``
    takes ``test_comp`` and ``test_style``. If a set has only ``train``, the share ``validation`` of its images, chosen
    by their names, are ``test``. ``limit`` takes only the first images of a split. Images are put on white, cropped to
    the central square and resized; the result is stored in ``cache``, by default ``data/.cache``, or the user's cache
    if ``data`` is not a writable folder. An image that cannot be read is left out, with a warning that names it.

    Captions and labels are optional; see `Rows.require_captions` and `Rows.require_labels`. ``class_names`` gives
    the names of the labels, such as the ``class_names`` of the train split when loading another. Weights are
    the column ``weight``, or `sampling_weights` of the column ``role``, or equal.

    Raises InputError for a missing folder, no images, an unknown split, an unknown class, or no readable image.
    """
    source = find(data, split, validation, limit)
    home = cache or cache_home(data)
    origin = digest((source.origin, _DECODING))
    folder = home / f"{split}-{image_size}-{origin}"
    made = make_cache(
        folder,
        source,
        {"data": origin, "image_size": image_size},
        lambda picture, name: np.asarray(square(picture, image_size)),
        lambda pictures: pictures,
        batch_size=_BATCH,
        description=f"Decoding {split}",
    )
    for stale in set(home.glob(f"{split}-{image_size}-{'?' * len(origin)}*")) - {folder}:
        shutil.rmtree(stale, ignore_errors=True)
    made.warn(f"{data} {split}")
    fields = describe(made.table, class_names or made.class_names, f"{data} {split}")
    fields |= {"captions": list(fields["captions"]), "columns": dict(fields["columns"])}
    return ImageSet(pixels=made.array, **fields)


def cache_home(data: str | Path) -> Path:
    """The cache folder of ``data``: in the folder itself if it is writable, else in the user's cache."""
    if os.path.isdir(data) and os.access(data, os.W_OK):
        return Path(data, ".cache")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "vqdiff" / "pictures" / digest([os.path.abspath(data)])


def square(image: Image.Image, size: int) -> Image.Image:
    """Crop an image to its central square, and resize it."""
    # Integer factors are averaged exactly; Lanczos would ring at the hard edges of flat drawings.
    whole = min(image.size) % size == 0
    return ImageOps.fit(image, (size, size), Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)
