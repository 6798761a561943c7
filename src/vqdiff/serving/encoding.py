"""The file format of a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from vqdiff.foundation.formats import encode

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Encoding:
    """A file format, and for JPEG and WebP the quality in percent; WebP at 100 is lossless."""

    format: Format = "png"
    quality: int = 100

    def encode(self, image: Image.Image, record: dict[str, Any]) -> bytes:
        """Encode a file with ``record`` inside (`vqdiff.foundation.formats.encode`)."""
        return encode(image, record, self.format, quality=self.quality)
