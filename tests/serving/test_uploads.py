"""Pictures that clients send go through the door that all others take."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from picture_sets import GREY16
from vqdiff.serving.limits import Limits


def test_16_bits_are_scaled() -> None:
    with Image.open(GREY16) as image:
        expected = (np.asarray(image) / 257).round()
    for read in (
        Limits().read_image(GREY16.read_bytes()),
        Limits().read_base64(base64.b64encode(GREY16.read_bytes()).decode()),
    ):
        assert read.mode == "L"
        assert np.array_equal(np.asarray(read), expected)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("1", "PNG", "L"), ("LA", "PNG", "RGBA"), ("P", "PNG", "RGB"), ("CMYK", "JPEG", "RGB"), ("RGBA", "WEBP", "RGBA")],
)
def test_modes_are_those_that_are_shown(mode: str, kind: str, expected: str) -> None:
    file, image = io.BytesIO(), Image.linear_gradient("L").convert(mode)
    if mode == "RGBA":
        image.putalpha(100)  # a file may leave out what is opaque
    image.save(file, kind)
    assert Limits().read_image(file.getvalue()).mode == expected
