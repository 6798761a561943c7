"""Encoding images as files with a record of how they were made."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Literal

from PIL import ExifTags, Image

from vqdiff.foundation.images import encode_png

Format = Literal["png", "jpeg", "webp"]

_LONGEST = 60_000
"""The most bytes of a record that fit in a JPEG file beside the rest of its EXIF data."""


@dataclass(frozen=True)
class Encoding:
    """A file format, and for JPEG and WebP the quality in percent; WebP at 100 is lossless."""

    format: Format = "png"
    quality: int = 100

    def encode(self, image: Image.Image, record: dict[str, Any]) -> bytes:
        """Encode a file with ``record`` inside: PNG under ``vqdiff``, the others as the EXIF image description."""
        if self.format == "png":
            return encode_png(image, record)
        exif, text, file = Image.Exif(), json.dumps(record), io.BytesIO()
        if len(text) <= _LONGEST:
            exif[ExifTags.Base.ImageDescription] = text
        # Drawings have thin coloured lines, which chroma subsampling would blur.
        best: dict[str, Any] = {"subsampling": 0} if self.format == "jpeg" else {"lossless": self.quality == 100}
        image.save(file, self.format, quality=self.quality, exif=exif, **best)
        return file.getvalue()
