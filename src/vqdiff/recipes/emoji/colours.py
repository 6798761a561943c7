"""Colours of drawings: naming the main colour of a drawing, and replacing it by another.

Colours are OKLCH: lightness 0 to 1, chroma (about 0.2 where vivid), hue in degrees.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

Oklch = tuple[float, float, float]

TARGETS: dict[str, Oklch] = {
    "red": (0.60, 0.22, 27.0),
    "orange": (0.74, 0.17, 58.0),
    "yellow": (0.88, 0.17, 98.0),
    "green": (0.66, 0.18, 145.0),
    "blue": (0.60, 0.17, 255.0),
    "purple": (0.56, 0.19, 302.0),
    "pink": (0.77, 0.13, 355.0),
    "brown": (0.48, 0.08, 55.0),
    "grey": (0.66, 0.0, 0.0),
    "black": (0.30, 0.0, 0.0),
}
"""The new main colours of recoloured drawings."""

GROUNDS = {
    "red": "#d92c2c", "orange": "#f59a32", "yellow": "#f9d84a", "green": "#3f9e4d", "blue": "#2f6fd0",
    "purple": "#7b4bb8", "pink": "#f49ac1", "brown": "#7a4f32", "grey": "#9a9a9a", "black": "#151515",
    "light blue": "#b9dcf7", "light green": "#c5e8c0", "dark blue": "#1c2f63", "dark green": "#1f5132",
    "beige": "#efe3c8", "turquoise": "#3cc1bd",
}  # fmt: skip
"""Plain backgrounds."""

WORDS = frozenset([*TARGETS, *GROUNDS, "white", "gold", "golden", "silver", "violet", "gray", "teal", "rainbow"])

_SATURATED = 0.045  # chroma from which a colour has a hue
_SAME = 35.0  # degrees of hue that count as one colour
_PAINT = re.compile(r"(?<!url\()(?<!href=\")#[0-9a-fA-F]{3}(?:[0-9a-fA-F]{3})?\b")
_NAMED = re.compile(r'((?:fill|stroke|stop-color)[=:]"?)(red|blue|green|yellow|orange|purple|pink|brown|gold)\b')
_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


@dataclass(frozen=True)
class MainColour:
    """The most common hue of a drawing."""

    colour: Oklch
    """Its median."""
    share: float
    """Its share of the pixels that are not white, 0 to 1."""

    @property
    def word(self) -> str:
        """Its name; empty if it is ambiguous."""
        lightness, chroma, hue = self.colour
        if chroma < 0.07:
            return ""
        dark = lightness < 0.6
        for limit, word in (
            (12, "" if dark else "pink"),
            (40, "red" if lightness < 0.7 else "pink"),
            (75, "brown" if dark else "orange"),
            (112, "yellow" if lightness > 0.75 else ""),
            (165, "green"),
            (225, ""),
            (278, "blue"),
            (322, "purple"),
            (361, "" if dark else "pink"),
        ):
            if hue < limit:
                return word
        return ""


def to_oklch(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """OKLCH, ``(…, 3)``, of sRGB in [0, 1], ``(…, 3)``."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _LMS.T) @ _LAB.T
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    return np.stack([lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), hue], -1)


def to_rgb(colour: Oklch) -> tuple[int, int, int]:
    """The sRGB values, 0 to 255, of an OKLCH colour; chroma is reduced until the colour exists."""
    lightness, chroma, hue = colour
    angle, linear = np.radians(hue), np.zeros(3)
    for _ in range(40):
        lab = np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])
        linear = np.linalg.inv(_LMS) @ (np.linalg.inv(_LAB) @ lab) ** 3
        if linear.min() > -1e-4 and linear.max() < 1 + 1e-4:
            break
        chroma *= 0.93
    linear = linear.clip(0, 1)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in rgb)
    return red, green, blue


def main_colour(png: bytes) -> MainColour | None:
    """The main colour of an image on white; None if nothing on it has a hue."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").reduce(2)
    pixels = np.asarray(picture, np.float64).reshape(-1, 3) / 255
    ink = to_oklch(pixels[pixels.min(1) < 0.96])
    coloured = ink[ink[:, 1] > _SATURATED]
    if len(coloured) < 20:
        return None
    counts, _ = np.histogram(coloured[:, 2], 36, (0, 360))
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    peak = 10 * float(smooth.argmax()) + 5
    near = coloured[np.abs(_difference(coloured[:, 2], peak)) < _SAME]
    turn = float(np.median(_difference(near[:, 2], peak)))
    lightness, chroma = (float(value) for value in np.median(near[:, :2], 0))
    return MainColour((lightness, chroma, (peak + turn) % 360), len(near) / len(ink))


def recolour(artwork: bytes, main: MainColour, word: str) -> bytes:
    """Change the main colour of an SVG drawing to that of ``word``, together with its lighter and darker shades."""
    turned = lru_cache(None)(lambda paint: _turn(paint, main.colour, TARGETS[word]))
    document = _NAMED.sub(lambda match: match[1] + _hex(ImageColor.getrgb(match[2])), artwork.decode())
    return _PAINT.sub(lambda match: turned(match[0]), document).encode()


def _turn(paint: str, old: Oklch, new: Oklch) -> str:
    lightness, chroma, hue = (float(value) for value in to_oklch(np.array(ImageColor.getrgb(paint)[:3]) / 255))
    away = (hue - old[2] + 180) % 360 - 180
    if chroma < _SATURATED or abs(away) > _SAME + 10:
        return paint
    # White and black stay, and the main colour becomes the new one.
    if lightness > old[0]:
        lightness = new[0] + (lightness - old[0]) * (1 - new[0]) / (1 - old[0])
    else:
        lightness *= new[0] / old[0]
    return _hex(to_rgb((lightness, chroma * new[1] / old[1], new[2] + away / 2)))


def _difference(hue: NDArray[np.float64], other: float) -> NDArray[np.float64]:
    """Signed degrees from ``other`` to ``hue``, −180 to 180."""
    return (hue - other + 180) % 360 - 180


def _hex(rgb: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb[:3])
