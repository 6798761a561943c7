"""Files of images in the format that a name's suffix stands for, with a record of how the image was made inside.

PNG has the record as the text ``vqdiff``, JPEG and WebP as the EXIF image description, SVG in ``<metadata>``, GIF as a
comment. PNG, JPEG and WebP also have the text `parameters` (`vqdiff.foundation.records`): PNG under this name, the
others as the EXIF user comment.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.extras import require
from vqdiff.foundation.records import parameters, parse_parameters

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "jpeg", "webp", "svg"]
SUFFIXES: dict[str, Format] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg"}

_QUALITY = {"jpeg": 95, "webp": 100}
_LONGEST = 65_000
"""The most bytes of EXIF data in a JPEG file."""
_DESCRIPTION, _EXIF, _COMMENT = 0x010E, 0x8769, 0x9286  # EXIF tags
_NAMESPACE = "urn:vqdiff:record"
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"<svg", b"<?xml")


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format that a path's suffix stands for; raises InputError for others, or if a package is missing."""
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        raise InputError(f"cannot write {path}: an animation is written by --gif; end the name of an image in .png")
    if suffix not in SUFFIXES:
        named = f"its name ends in {suffix}" if suffix else "its name has no suffix"
        raise InputError(f"cannot write {path}: {named}; end it in one of {', '.join(SUFFIXES)}")
    return available(SUFFIXES[suffix])


def available(name: str) -> Format:
    """Return a format by its name (also jpg); raises InputError if unknown, or if a package for it is missing."""
    known = SUFFIXES.get(f".{name}")
    if known is None:
        raise InputError(f"unknown format {name!r}: choose one of {', '.join(get_args(Format))}")
    if known == "svg":
        require("SVG", "svg")
    return known


def encode(
    image: Image.Image, record: dict[str, Any], file_format: Format = "png", *, quality: int | None = None
) -> bytes:
    """Encode a file with a record of how the image was made.

    quality: 0 to 100 for JPEG (default: 95) and WebP (default: 100, which is lossless). A record that has no ``kind``,
    such as that of a preview, is not written as `parameters`. One that is too long for a JPEG file is left out, with a
    warning.
    """
    record = {key: value for key, value in record.items() if key != "quality"}  # of the file that it was read from
    if file_format == "svg":
        return _with_metadata(trace(image), record)
    file = io.BytesIO()
    shown = parameters(record, image.size) if "kind" in record else None
    if file_format == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("vqdiff", json.dumps(record))
        if shown is not None:
            info.add_text("parameters", shown)
        image.save(file, format="PNG", pnginfo=info)
        return file.getvalue()
    quality = _QUALITY[file_format] if quality is None else quality
    if file_format == "jpeg" or quality < 100:
        record = record | {"quality": quality}
    # Drawings have thin coloured lines, which chroma subsampling would blur.
    best: dict[str, Any] = {"subsampling": 0} if file_format == "jpeg" else {"lossless": quality == 100, "exact": True}
    exif = _exif(record, shown, _LONGEST if file_format == "jpeg" else None)
    image.convert("RGB").save(file, file_format, quality=quality, exif=exif, **best)
    return file.getvalue()


def save_animation(frames: Sequence[Image.Image], times: Iterable[int], record: dict[str, Any], path: Path) -> None:
    """Write a GIF file that repeats, each frame shown for a time in milliseconds, with a record as its comment."""
    comment = json.dumps(record).encode()
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=list(times), loop=0, comment=comment)


def trace(image: Image.Image) -> str:
    """Trace a drawing as SVG; raises InputError if vtracer is not installed."""
    available("svg")
    import vtracer
    from PIL import Image

    width, height = image.width * _SCALE, image.height * _SCALE
    colours = min(256, _COLOURS * max(1, image.width * image.height // _AREA))
    image = image.convert("RGB")
    palette = image.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    values = bytes(palette.getpalette() or ())
    shades = [values[start : start + 3] for start in range(0, len(values), 3)]
    # The mean of white and of pale edges would tint the background.
    palette.putpalette(b"".join(b"\xff\xff\xff" if min(one) >= _WHITE else one for one in shades))
    large = image.resize((width, height), Image.Resampling.BICUBIC)
    flat = large.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
    file = io.BytesIO()
    flat.save(file, "PNG")
    svg = vtracer.convert_raw_image_to_svg(file.getvalue(), img_format="png", **_TRACING)
    enlarged = f'width="{width}" height="{height}"'
    return svg.replace(enlarged, f'width="{image.width}" height="{image.height}" viewBox="0 0 {width} {height}"', 1)


# Compared by eye on drawings of the bundled model: without enlarging, outlines have the steps of pixels; without few
# colours, soft edges become stripes.
_SCALE, _COLOURS, _AREA, _WHITE = 2, 24, 128 * 128, 244
_TRACING: dict[str, Any] = {
    "colormode": "color",
    "hierarchical": "stacked",
    "mode": "spline",
    "filter_speckle": 4,
    "color_precision": 8,
    "layer_difference": 0,
    "corner_threshold": 60,
    "length_threshold": 4.0,
    "splice_threshold": 45,
    "path_precision": 1,
}


def holds_image(path: Path) -> bool:
    """Whether a file begins as one of an image."""
    try:
        with path.open("rb") as file:
            return file.read(8).lstrip().startswith(_SIGNATURES)
    except OSError:
        return False


def read_record(path: Path | str) -> dict[str, Any]:
    """Read the record in an image file, or what its text `parameters` says if there is none.

    Raises InputError if there is neither, or if the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        texts = _texts_of_svg(content) if content.lstrip().startswith(b"<") else _texts(content)
    except Exception as error:  # a reader may raise any exception for a damaged file
        reason = getattr(error, "strerror", None) or "it is not an image in a known format, or damaged"
        raise InputError(f"cannot read the image {path}: {reason}") from error
    for text in texts:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = parse_parameters(text) if "Steps:" in text else None
        if isinstance(record, dict) and record:
            return record
    raise InputError(f"{path} has no record of how it was made: vqdiff did not write it, or a program removed it")


def _texts(content: bytes) -> list[str]:
    """The texts that may be a record, the likeliest first."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        info, exif = dict(image.info), image.getexif()
    comment = exif.get_ifd(_EXIF).get(_COMMENT, b"")
    found = [info.get("vqdiff"), exif.get(_DESCRIPTION), info.get("comment"), info.get("parameters"), comment]
    return [_decoded(text) for text in found if isinstance(text, str | bytes) and text]


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    if text.startswith(b"UNICODE\0"):
        return text[8:].decode("utf-16-be", "replace")
    return text.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace")


def _texts_of_svg(content: bytes) -> list[str]:
    found = ElementTree.fromstring(content).iter(f"{{{_NAMESPACE}}}record")
    return [element.text for element in found if element.text]


def _with_metadata(svg: str, record: dict[str, Any]) -> bytes:
    head, tag, rest = svg.partition("<svg")
    attributes, end, body = rest.partition(">")
    metadata = f'<metadata><record xmlns="{_NAMESPACE}">{escape(json.dumps(record))}</record></metadata>'
    return f"{head}{tag}{attributes}{end}\n{metadata}{body}".encode()


def _exif(record: dict[str, Any], shown: str | None, longest: int | None) -> Image.Exif:
    """EXIF data with the record and the text, or as much of it as fits."""
    from PIL import Image

    exif, text = Image.Exif(), json.dumps(record)
    comment = b"" if shown is None else b"UNICODE\0" + shown.encode("utf-16-be", "replace")
    if longest is not None and len(text) + len(comment) > longest - 200:
        comment = b""
    if longest is not None and len(text) > longest - 200:
        warnings.warn(
            "the record of how the image was made is too long for a JPEG file: write PNG or WebP to keep it",
            InputWarning,
            stacklevel=3,
        )
        return exif
    exif[_DESCRIPTION] = text
    if comment:
        exif.get_ifd(_EXIF)[_COMMENT] = comment
    return exif
