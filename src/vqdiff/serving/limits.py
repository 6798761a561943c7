"""What a request may ask for, and pictures that come in: nothing here trusts what it reads."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass

from PIL import Image

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import has_lone_surrogates
from vqdiff.foundation.images import normalise

FORMATS = ("PNG", "JPEG", "WEBP")


class TooLargeError(InputError):
    """More than a limit of the server allows (HTTP 413)."""


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for. A request beyond a limit is refused before any work is done for it."""

    max_body: int = 16 * 2**20
    """Bytes of a request (413)."""
    max_prompt: int = 1000
    """Characters of a prompt (400); the model has a limit of its own, in word pieces."""
    max_images: int = 10
    """Pictures of a request (400)."""
    max_steps: int = 256
    """Steps (400)."""
    max_image_bytes: int = 5 * 2**20
    """Bytes of a picture's file (413)."""
    max_image_pixels: int = 1024**2
    """Pixels of the square around a picture: a long, thin one counts as its longest side squared (413)."""
    timeout: float = 120.0
    """Seconds from a request's arrival to its answer (503), to its last byte (408), and for a client to take a part of
    the answer (it is hung up on)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}: it must be above 0")

    def check_prompt(self, prompt: str | None) -> None:
        """Raise InputError for a prompt that is too long or no text."""
        if prompt is None:
            return
        if len(prompt) > self.max_prompt:
            raise InputError(f"the prompt has {len(prompt)} characters, the limit is {self.max_prompt}: shorten it")
        if has_lone_surrogates(prompt):
            raise InputError("the prompt has half a character in it (a lone surrogate): send valid Unicode")

    def check_num_images(self, num_images: int) -> None:
        """Raise InputError for too many pictures, or none."""
        if not 1 <= num_images <= self.max_images:
            raise InputError(f"n is {num_images}: ask for 1 to {self.max_images} pictures")

    def check_steps(self, steps: int | None) -> None:
        """Raise InputError for too many steps, or none."""
        if steps is not None and not 1 <= steps <= self.max_steps:
            raise InputError(f"steps is {steps}: ask for 1 to {self.max_steps}")

    def read_picture(self, content: bytes, name: str = "image") -> Image.Image:
        """A picture from a file's bytes, upright, in 8 bits; its size is known, within limits, before it is unpacked.

        Raises TooLargeError, and InputError for what is no PNG, JPEG or WebP.
        """
        if len(content) > self.max_image_bytes:
            raise TooLargeError(f"the {name} has {len(content)} bytes, the limit is {self.max_image_bytes}")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if max(image.size) ** 2 > self.max_image_pixels:
                    raise TooLargeError(
                        f"the {name} is {image.width}×{image.height} pixels: its longest side may have "
                        f"{int(self.max_image_pixels**0.5)}"
                    )
                return normalise(image)
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise TooLargeError(f"the {name} is too large: {error}") from error
        except Exception as error:  # a damaged file may make its reader stumble over anything
            raise InputError(f"the {name} is no readable picture: send {', '.join(FORMATS)}") from error

    def read_base64(self, text: str, name: str = "image") -> Image.Image:
        """A picture from its file in base64, with or without the head of a data URL."""
        _, _, content = text.rpartition(",")
        try:
            return self.read_picture(base64.b64decode(content, validate=True), name)
        except (binascii.Error, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the {name} is not in base64: {error}") from error
