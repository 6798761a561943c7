"""Between tensors and pictures: 8-bit conversion and grids."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vqdiff.errors import InputError
from vqdiff.shapes import Float


def to_pixels(pictures: NDArray[np.uint8]) -> Float[Tensor, "B 3 H W"]:
    """uint8 ``(B, H, W, 3)`` → floats in [0, 1], ``(B, 3, H, W)`` in channels-last memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255


def batches(pictures: NDArray[np.uint8], size: int = 64) -> Iterator[Float[Tensor, "B 3 H W"]]:
    """8-bit pictures ``(N, H, W, 3)`` as pixels, ``size`` at a time."""
    return (to_pixels(pictures[start : start + size]) for start in range(0, len(pictures), size))


def to_images(pixels: Float[Tensor, "B 3 H W"]) -> list[Image.Image]:
    """Pixels in [0, 1] → PIL images, rounded (not truncated) to 8 bits."""
    array = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in array]


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB, on white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def encode_png(image: Image.Image, record: dict[str, Any]) -> bytes:
    """A PNG file with a record of the picture's making inside."""
    info, file = PngInfo(), io.BytesIO()
    info.add_itxt("vqdiff", json.dumps(record))
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_picture(path: Path) -> Image.Image:
    """A picture file, upright; InputError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise InputError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from error


def grid(pixels: Float[Tensor, "B 3 H W"], columns: int, gap: int = 4) -> Image.Image:
    """Pictures row by row on a white sheet."""
    return sheet(to_images(pixels), columns, gap)


def sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """PIL images of one size row by row on a white sheet."""
    width, height = images[0].size
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        out.paste(image, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return out


def heat_map(values: Float[Tensor, "h w"], size: tuple[int, int]) -> Image.Image:
    """Values in [0, 1] from dark blue over red to pale yellow, one square each."""
    stops = torch.tensor([[13, 8, 60], [120, 28, 109], [237, 105, 37], [252, 255, 190]], dtype=torch.float32)
    place = values.float().cpu().clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp_max(len(stops) - 2)
    colours = torch.lerp(stops[low], stops[low + 1], (place - low)[..., None])
    return Image.fromarray(colours.round().to(torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
