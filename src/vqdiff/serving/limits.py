"""Limits of a request, and reading uploaded images; all input is untrusted."""

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
    """The limits of one request. A request beyond a limit is rejected before any work is done for it."""

    max_body: int = 16 * 2**20
    """Bytes per request (413)."""
    max_prompt: int = 1000
    """Characters per prompt (400); the model has its own limit, in word pieces."""
    max_images: int = 10
    """Images per request (400)."""
    max_steps: int = 256
    """Steps (400)."""
    max_best_of: int = 8
    """Candidates per image (400)."""
    max_image_bytes: int = 5 * 2**20
    """Bytes of an image file (413)."""
    max_image_pixels: int = 1024**2
    """Pixels of the square around an image, that is its longest side squared (413)."""
    timeout: float = 120.0
    """Seconds from a request's arrival to its response (503), to its last byte (408), and for a client to receive a
    part of the response (it is disconnected)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}: it must be above 0")

    def check_prompt(self, prompt: str | None) -> None:
        """Raise InputError for a prompt that is too long or not valid Unicode."""
        if prompt is None:
            return
        if len(prompt) > self.max_prompt:
            raise InputError(f"the prompt has {len(prompt)} characters, the limit is {self.max_prompt}: shorten it")
        if has_lone_surrogates(prompt):
            raise InputError("the prompt contains half a character (a lone surrogate): send valid Unicode")

    def check_num_images(self, num_images: int) -> None:
        """Raise InputError for too many images, or none."""
        if not 1 <= num_images <= self.max_images:
            raise InputError(f"n is {num_images}: give 1 to {self.max_images} images")

    def check_steps(self, steps: int | None) -> None:
        """Raise InputError for too many steps, or none."""
        if steps is not None and not 1 <= steps <= self.max_steps:
            raise InputError(f"steps is {steps}: give 1 to {self.max_steps}")

    def check_best_of(self, best_of: int | None) -> None:
        """Raise InputError for too many candidates per image."""
        if best_of is not None and best_of > self.max_best_of:
            raise InputError(f"best_of is {best_of}: give 1 to {self.max_best_of}")

    def read_image(self, content: bytes, name: str = "image") -> Image.Image:
        """Decode an image file, upright, in 8 bits; its size is checked before it is decompressed.

        Raises TooLargeError, and InputError for anything but a PNG, JPEG or WebP.
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
        except Exception as error:  # a reader may raise any exception for a damaged file
            raise InputError(f"the {name} cannot be read as an image: send {', '.join(FORMATS)}") from error

    def read_base64(self, text: str, name: str = "image") -> Image.Image:
        """Decode an image file in base64, with or without the head of a data URL."""
        _, _, content = text.rpartition(",")
        try:
            return self.read_image(base64.b64decode(content, validate=True), name)
        except (binascii.Error, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the {name} is not valid base64: {error}") from error
