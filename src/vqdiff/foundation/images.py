"""Reading images of any kind, mode and depth; conversion between tensors and images; grids."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float

ImageLike = Image.Image | str | os.PathLike[str] | NDArray[Any]
"""What `as_image` accepts."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


class ImageError(InputError):
    """An image that cannot be read or shown, and the reason."""


def to_pixels(pictures: NDArray[np.uint8]) -> Float[Tensor, "B 3 H W"]:
    """Convert uint8 ``(B, H, W, 3)`` to floats in [0, 1], ``(B, 3, H, W)`` in channels-last memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255


def batches(pictures: NDArray[np.uint8], size: int = 64) -> Iterator[Float[Tensor, "B 3 H W"]]:
    """Convert 8-bit images ``(N, H, W, 3)`` to pixels, ``size`` at a time."""
    return (to_pixels(pictures[start : start + size]) for start in range(0, len(pictures), size))


def to_images(pixels: Float[Tensor, "B 3 H W"]) -> list[Image.Image]:
    """Convert pixels in [0, 1] to PIL images, rounded (not truncated) to 8 bits."""
    array = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in array]


def as_image(picture: ImageLike) -> Image.Image:
    """Convert what a caller passes as an image to a PIL image, as `normalise` returns it.

    picture: a PIL image, the path of a file, or an array of ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` that is uint8,
    bool, or floats from 0 to 1. Raises ImageError for anything else.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(Path(picture))
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise ImageError(f"an image must be a PIL image, a path or a NumPy array, not {type(picture).__name__}")
    try:
        return normalise(picture)
    except ImageError:
        raise
    except Exception as error:  # PIL has opened the file but not read it yet
        raise ImageError(f"cannot read the image: {_reason(error)}") from error


def on_white(picture: ImageLike) -> Image.Image:
    """Convert an image to RGB, upright, on white where it is transparent; ImageError as in `as_image`."""
    image = as_image(picture)
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def read_image(path: Path) -> Image.Image:
    """Read an image file, as `normalise` returns it; raises ImageError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return normalise(image)
    except Exception as error:  # a reader may raise any exception for a damaged file
        raise ImageError(f"cannot read the image {path}: {_reason(error)}") from error


def decode(content: bytes) -> Image.Image:
    """Decode the bytes of an image file to RGB, upright and on white; raises ImageError if they cannot be read."""
    if not content:
        raise ImageError("it is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return on_white(normalise(image))
    except Exception as error:
        raise ImageError(_reason(error)) from error


def normalise(image: Image.Image) -> Image.Image:
    """Convert an image of any mode and depth to mode L, RGB, or RGBA if anything is transparent, rotated by its EXIF.

    16-bit values are scaled to 8 bits. The modes I and F state no depth: their values range to 255 or 65535 (F also to
    1), the first of these that the largest value fits. Raises ImageError for other values, and whatever PIL raises
    for a damaged file.
    """
    if not all(image.size):
        raise ImageError(f"the image is {image.width}×{image.height} pixels: it is empty")
    white, clear = _white_level(image), _clear_colour(image)
    inverted = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _to_8_bits(values, image.mode, white)
        alpha = None if clear is None else np.where(values == clear, 0, 255).astype(np.uint8)
        grey = 255 - grey if inverted else grey
        return Image.fromarray(grey if alpha is None else np.stack([grey, grey, grey, alpha], -1))
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is None only if the image is changed in place
        return converted
    if image.mode == "La":
        image = image.convert("LA")
    if clear is not None:
        image.info["transparency"] = clear
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _white_level(image: Image.Image) -> int | None:
    """The value of white in a grey image of more than 8 bits, if its file or its mode determines it."""
    if image.mode.startswith("I;16"):
        (bits, *_) = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) or (16,)
        return 2**bits - 1
    return 65535 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _clear_colour(image: Image.Image) -> object:
    """The colour that stands for transparency, if any, in the values that PIL converts the file's to."""
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # present until the pixels are read
    raw = tiles[0][3] if tiles else None
    if isinstance(clear, tuple) and (raw == "RGB;16B" or max(clear) > 255):
        return tuple(value >> 8 for value in clear)
    if isinstance(clear, int) and raw in ("L;2", "L;4"):
        return clear * (85 if raw == "L;2" else 17)
    return clear


def _to_8_bits(values: NDArray[Any], mode: str, white: int | None) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    levels = [white] if white else [255, 65535] if mode == "I" else [1, 255, 65535]
    fitting = [level for level in levels if high <= level]
    # Values just above a level most likely overshoot it: scaled to the next level, the image would be almost black.
    if not fitting or low < 0 or any(level < high < 2 * level for level in levels):
        ranges = " or ".join(f"0 to {level}" for level in levels)
        raise ImageError(
            f"values from {low:g} to {high:g} in an image of mode {mode} cannot be shown in 8 bits: "
            f"scale them to {ranges}"
        )
    return (values.astype(np.float64) * (255 / fitting[0])).round().astype(np.uint8)


def _from_array(array: NDArray[Any]) -> Image.Image:
    floats = np.issubdtype(array.dtype, np.floating)
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not (shaped and array.size and (floats or array.dtype in (np.uint8, np.bool_))):
        shape = "×".join(map(str, array.shape))
        raise ImageError(
            f"the image is an array of {array.dtype}, {shape}: "
            "give uint8, or floats from 0 to 1, of H×W, H×W×3 or H×W×4"
        )
    if floats:
        if not (array.min() >= 0 and array.max() <= 1):  # nor NaN
            raise ImageError(
                f"the image is an array of floats from {array.min():g} to {array.max():g}: they must be from 0 to 1"
            )
        array = (array * 255).round()
    elif array.dtype == np.bool_:
        array = array * 255
    return Image.fromarray(array.astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def grid(pixels: Float[Tensor, "B 3 H W"], columns: int, gap: int = 4) -> Image.Image:
    """Lay out images row by row on a white sheet."""
    return sheet(to_images(pixels), columns, gap)


def sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Lay out PIL images of one size row by row on a white sheet."""
    width, height = images[0].size
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        out.paste(image, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return out


def heat_map(values: Float[Tensor, "h w"], size: tuple[int, int]) -> Image.Image:
    """Show values in [0, 1] as squares, from dark blue over red to pale yellow."""
    stops = torch.tensor([[13, 8, 60], [120, 28, 109], [237, 105, 37], [252, 255, 190]], dtype=torch.float32)
    place = values.float().cpu().clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp_max(len(stops) - 2)
    colours = torch.lerp(stops[low], stops[low + 1], (place - low)[..., None])
    return Image.fromarray(colours.round().to(torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
