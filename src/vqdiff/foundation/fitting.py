"""Conversion between an image of any size and the square that a model generates: fit, mask, paste.

An image is put on white where it is transparent, padded to a square by repeating its edge, and scaled to the model's
size; the result is converted back. A square image of the model's size is not changed.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import ImageLike, as_image, on_white
from vqdiff.foundation.shapes import Bool

_WHITE = 128  # the lowest value of a mask that means resample


def fit(picture: ImageLike, size: int) -> Image.Image:
    """Fit an image of any size into a square of ``size`` pixels."""
    image = on_white(picture)
    pads = _pads(image.size)
    square = Image.fromarray(np.pad(np.asarray(image), (*pads, (0, 0)), mode="edge"))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def unfit(drawn: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Reverse `fit`: the part of the square that an image of ``size`` covers, at that size."""
    (top, _), (left, _) = _pads(size)
    side = max(size)
    return drawn.resize((side, side), Image.Resampling.LANCZOS).crop((left, top, left + size[0], top + size[1]))


def white(given: ImageLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a mask is 128 or more, (H, W); raises InputError unless it has the image's ``size``."""
    mask = as_image(given)
    if mask.size != size:
        raise InputError(
            f"the mask is {mask.width}×{mask.height} pixels, the image {size[0]}×{size[1]}: give a mask of that size"
        )
    return np.asarray(mask.convert("L")) >= _WHITE


def to_tokens(redraw: NDArray[np.bool_], grid_size: int) -> Bool[torch.Tensor, "L"]:
    """The tokens to resample: those with any pixel to resample in their patch of the square that `fit` makes."""
    square = torch.from_numpy(np.pad(redraw, _pads(redraw.shape[::-1]), mode="edge")).float()
    return F.adaptive_max_pool2d(square[None], grid_size).flatten() > 0


def paste(drawn: Image.Image, image: Image.Image, redraw: NDArray[np.bool_], feather: int = 0) -> Image.Image:
    """Paste what was generated into the image at the pixels to resample; all others keep their exact values.

    feather: width in pixels of a seam, on the resampled side, over which the two fade into each other.
    """
    if feather < 0:
        raise InputError(f"feather is {feather}: give a width in pixels, 0 for a sharp seam")
    weight = Image.fromarray(np.where(redraw, 255, 0).astype(np.uint8))
    if feather:
        blurred = np.asarray(weight.filter(ImageFilter.BoxBlur(feather)), np.float32)
        # On the border itself half of the pixels around are resampled: the fading starts there, from 0.
        weight = Image.fromarray(np.where(redraw, (2 * blurred - 255).clip(0), 0).astype(np.uint8))
    return Image.composite(drawn, on_white(image), weight)


def expand(picture: ImageLike, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """Put the image on a larger canvas, with this many new pixels at each side; also return a mask, white on these."""
    margins = {"left": left, "top": top, "right": right, "bottom": bottom}
    if wrong := [side for side, width in margins.items() if width < 0]:
        raise InputError(f"{wrong[0]} is {margins[wrong[0]]}: give the number of pixels to add, 0 for none")
    if not any(margins.values()):
        raise InputError("nothing to add: give the pixels to add at the left, top, right or bottom")
    image = on_white(picture)
    size = (image.width + left + right, image.height + top + bottom)
    canvas, mask = Image.new("RGB", size, "white"), Image.new("L", size, 255)
    canvas.paste(image, (left, top))
    mask.paste(0, (left, top, left + image.width, top + image.height))
    return canvas, mask


def _pads(size: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels that pad ``size`` (width, height) to a square, evenly at both ends: (top, bottom), (left, right)."""
    missing = [max(size) - length for length in (size[1], size[0])]
    top, left = missing[0] // 2, missing[1] // 2
    return (top, missing[0] - top), (left, missing[1] - left)
