"""Draw one icon on white: SVG through resvg, raster artwork through Pillow, both with the same margin."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

SIZE = 128  # pixels of a finished picture
CANVAS = 256  # emoji are drawn at twice the size and averaged: filters leave jagged outlines at 128
MARGIN = 1 / 32  # of the artwork's longer side, on each of the four sides
_OTHER_CANVASES = (512, 384, SIZE)  # tried in turn where resvg fails at 256; all are whole multiples of SIZE


class RenderError(RuntimeError):
    """An icon could not be drawn at any size."""


def svg_document(icon_set: Mapping[str, Any], name: str) -> bytes:
    """The icon `name` of an Iconify set as a square SVG document with the margin around it."""
    icon = icon_set["icons"][name]
    left, top = (icon.get(side, icon_set.get(side, 0)) for side in ("left", "top"))
    width, height = (icon.get(side, icon_set.get(side, 16)) for side in ("width", "height"))
    side = max(width, height) * (1 + 2 * MARGIN)
    x, y = left - (side - width) / 2, top - (side - height) / 2
    document = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{CANVAS}" height="{CANVAS}" viewBox="{x} {y} {side} {side}">{icon["body"]}</svg>'
    )
    return document.encode()


def draw_png(artwork: bytes, canvas: int = CANVAS) -> bytes:
    """Draw an SVG document or another picture file on white; returns a PNG of 128 × 128 pixels.

    ``canvas`` is the size that SVG is drawn at first. Equal pixels give equal bytes. Raises `RenderError` where nothing
    can be drawn.
    """
    return _png(_draw_svg(artwork.decode(), canvas) if artwork.startswith(b"<svg") else _draw_raster(artwork))


def quick_canvas(artwork: bytes) -> int:
    """A size to draw at that is good enough for views: a third of the time, 0.2 % of the grey levels away."""
    return CANVAS if b"<filter" in artwork or b"<image" in artwork else SIZE


def blank_png() -> bytes:
    """The PNG of a drawing with nothing on it."""
    return _png(Image.new("RGB", (SIZE, SIZE), "white"))


def _draw_svg(document: str, canvas: int) -> Image.Image:
    import resvg_py

    failures: list[str] = []
    for size in dict.fromkeys((canvas, CANVAS, *_OTHER_CANVASES)):
        try:
            png = resvg_py.svg_to_bytes(svg_string=document, width=size, height=size, skip_system_fonts=True)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # resvg's PanicException is a bare BaseException, and can't be pickled
            failures.append(f"{size} px: {error}")
        else:
            return _on_white(Image.open(io.BytesIO(png)).convert("RGBA"))
    raise RenderError("; ".join(failures))


def _draw_raster(data: bytes) -> Image.Image:
    try:
        artwork = Image.open(io.BytesIO(data)).convert("RGBA")
    except OSError as error:
        raise RenderError(str(error)) from error
    scale = CANVAS / (max(artwork.size) * (1 + 2 * MARGIN))
    width, height = (round(side * scale) for side in artwork.size)
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    place = ((CANVAS - width) // 2, (CANVAS - height) // 2)
    canvas.paste(artwork.resize((width, height), Image.Resampling.LANCZOS), place)
    return _on_white(canvas)


def _on_white(drawing: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(paper, drawing).convert("RGB").reduce(drawing.width // SIZE)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
