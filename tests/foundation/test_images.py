"""Pictures of every mode and depth, 8-bit conversion and sheets."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, TiffImagePlugin

from picture_sets import GREY16
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import (
    ImageError,
    as_image,
    batches,
    decode,
    grid,
    heat_map,
    normalise,
    on_white,
    read_image,
    to_images,
    to_pixels,
)

RAMP = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (2, 1))
"""Sixteen greys, black to white."""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# Modes and depths


def ramp_in(mode: str) -> Image.Image:
    """The ramp in a mode, white being what that mode's depth has for it."""
    if mode.startswith("I;16"):
        values = RAMP.astype({"B": ">u2", "N": "=u2"}.get(mode[-1], "<u2")) * 257
        return Image.frombytes(mode, (16, 2), values.tobytes())
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        return ImageCms.profileToProfile(Image.fromarray(RAMP).convert("RGB"), srgb, lab, outputMode="LAB")  # type: ignore[return-value]
    by_way_of = {"La": "LA", "RGBa": "RGBA", "HSV": "RGB", "YCbCr": "RGB", "PA": "LA"}
    return Image.fromarray(RAMP).convert(by_way_of.get(mode, "L")).convert(mode)


MODES = ["1", "L", "LA", "La", "P", "PA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F", "RGB", "RGBA", "RGBa", "RGBX"]
MODES += ["CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_shown_as_it_is(mode: str) -> None:
    image = ramp_in(mode)
    before = image.tobytes()
    shown = np.asarray(on_white(image)).astype(int)
    assert shown.shape == (2, 16, 3)
    if mode == "1":  # dithered
        assert set(shown.flatten().tolist()) == {0, 255}
    else:
        assert np.abs(shown - RAMP[..., None]).max() <= (2 if mode in ("LAB", "YCbCr") else 0)
    assert normalise(image).mode in ("L", "RGB", "RGBA")
    assert image.mode == mode
    assert image.tobytes() == before


def test_no_mode_of_pil_is_left_out() -> None:
    assert set(Image.MODES) <= set(MODES)


@pytest.mark.parametrize(("top", "most"), [(255, 255), (65535, 65535), (40_000, 65535)])
def test_the_mode_i_counts_to_what_its_largest_value_fits(top: int, most: int) -> None:
    values = np.linspace(0, top, 32).round().astype(np.int32)[None]
    assert np.array_equal(np.asarray(as_image(Image.fromarray(values))), (values / most * 255).round().astype(np.uint8))


@pytest.mark.parametrize(("top", "most"), [(1, 1), (0.5, 1), (255, 255), (65535, 65535)])
def test_the_mode_f_may_also_count_to_one(top: float, most: float) -> None:
    values = np.linspace(0, top, 32, dtype=np.float32)[None]
    assert np.array_equal(np.asarray(as_image(Image.fromarray(values))), (values / most * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[-1, 5]], np.int32), "values from -1 to 5 in an image of mode I cannot be shown in 8 bits"),
        (np.array([[0, 70_000]], np.int32), "scale them to 0 to 255 or 0 to 65535"),
        (np.array([[0, 300]], np.int32), "values from 0 to 300"),
        (np.array([[0, 1.02]], np.float32), "values from 0 to 1.02 in an image of mode F"),
        (np.array([[0, np.nan]], np.float32), "values from nan to nan"),
        (np.array([[0, np.inf]], np.float32), "values from 0 to inf"),
    ],
)
def test_what_eight_bits_cannot_show_is_named(values: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_image(Image.fromarray(values))
    with pytest.raises(ImageError, match=says):
        decode(saved(Image.fromarray(values), "TIFF"))


# Files


def test_a_16_bit_ramp_is_a_ramp() -> None:
    with Image.open(GREY16) as image:
        assert image.mode == "I;16"
        expected = (np.asarray(image) / 257).round()
    assert len(np.unique(expected)) == 64
    assert np.array_equal(np.asarray(read_image(GREY16)), expected)
    assert np.array_equal(np.asarray(decode(GREY16.read_bytes()))[..., 1], expected)


def png(bits: int, colour: int, rows: bytes, width: int, clear: bytes = b"") -> bytes:
    """A PNG file of one row, written by hand: PIL writes no such depths."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    data = (
        chunk(b"IHDR", head) + (chunk(b"tRNS", clear) if clear else b"") + chunk(b"IDAT", zlib.compress(b"\0" + rows))
    )
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (png(16, 2, bytes.fromhex("800180018001 123400000000"), 2, bytes.fromhex("123400000000")), [128, 255]),
        (png(16, 6, bytes.fromhex("8001800180010000 800180018001ffff"), 2), [255, 128]),
        (png(16, 4, bytes.fromhex("80010000 8001ffff"), 2), [255, 128]),
        (png(16, 0, bytes.fromhex("8001 1234"), 2, bytes.fromhex("1234")), [128, 255]),
        (png(8, 0, bytes([3, 200]), 2, bytes.fromhex("0003")), [255, 200]),
        (png(4, 0, bytes([0x3A]), 2, bytes.fromhex("0003")), [255, 170]),
        (png(2, 0, bytes([0b01100000]), 2, bytes.fromhex("0001")), [255, 170]),
        (png(1, 0, bytes([0b01000000]), 2, bytes.fromhex("0000")), [255, 255]),
    ],
    ids=["RGB16", "RGBA16", "LA16", "L16", "L8", "L4", "L2", "L1"],
)  # fmt: skip
def test_png_of_every_depth_is_on_white_where_it_is_transparent(file: bytes, expected: list[int]) -> None:
    assert np.asarray(decode(file))[0, :, 0].tolist() == expected


def test_palettes_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 100])
    image.putpixel((1, 0), 1)
    for clear in (0, b"\x00\xff"):
        assert np.asarray(decode(saved(image, "PNG", transparency=clear)))[0].tolist() == [[255] * 3, [0, 0, 100]]
    assert np.asarray(decode(saved(image, "GIF", transparency=0)))[0].tolist() == [[255] * 3, [0, 0, 100]]


def test_tiff_tells_its_depth() -> None:
    """12 bits, and 16 bits in which 0 is white: PIL gives both as I;16."""
    values = np.array([[0, 2048, 4095]], np.uint16)
    twelve = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0])  # 000 800 fff, packed
    for bits, photometric, data, expected in (
        (12, 1, twelve, [0, 128, 255]),
        (16, 1, values.tobytes(), [0, 8, 16]),
        (16, 0, values.tobytes(), [255, 247, 239]),
    ):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        fields = {256: 3, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(data)}
        for tag, value in fields.items():
            tags[tag] = value
        file = io.BytesIO()
        file.write(b"II*\0" + (8).to_bytes(4, "little"))
        tags.save(file)  # which puts the place of what follows into tag 273
        file.write(data)
        shown = np.asarray(decode(file.getvalue()))[0, :, 0].tolist()
        assert shown == expected, (bits, photometric)


def test_pgm_of_16_bits() -> None:
    assert np.asarray(decode(b"P5 3 1 1023\n" + bytes.fromhex("0000 0200 03ff")))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(decode(b"P5 2 1 65535\n" + bytes.fromhex("0000 00ff")))[0, :, 0].tolist() == [0, 1]  # dark


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, "RGB") for kind in ("PNG", "JPEG", "TIFF", "WEBP")] + [("PNG", "I;16"), ("TIFF", "I;16")]
)
def test_pictures_are_upright(kind: str, mode: str) -> None:
    image = Image.fromarray(np.array([[0, 65535]], np.uint16)) if mode == "I;16" else Image.new("RGB", (16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    content = saved(image, kind, exif=exif)
    assert decode(content).size == image.size[::-1]
    with Image.open(io.BytesIO(content)) as opened:
        once = as_image(opened)
    assert once.size == as_image(once).size == image.size[::-1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"words", "not an image in a known format"),
        (saved(Image.new("L", (99, 99)), "PNG")[:60], "."),
    ],
)
def test_damaged_files_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=says):
        decode(content)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"cannot read the image .*a\.png: "):
        read_image(tmp_path / "a.png")
    if content.startswith(b"\x89PNG"):
        with Image.open(tmp_path / "a.png") as lazy, pytest.raises(ImageError, match="cannot read the image"):
            as_image(lazy)


def test_a_reader_may_stumble_over_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(self: Any) -> None:
        raise IndexError("out of range")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", stumble)
    with pytest.raises(ImageError, match="out of range"):
        decode(saved(Image.new("L", (3, 3)), "PNG"))


# What a caller may give


def test_paths_and_arrays_are_pictures(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), colour, colour / 255, (colour / 255).astype(np.float32)):
        assert np.array_equal(np.asarray(as_image(given)), colour)
    assert np.array_equal(np.asarray(as_image(colour[..., :3])), colour[..., :3])
    assert np.array_equal(np.asarray(as_image(colour[..., 0])), colour[..., 0])
    assert np.asarray(as_image(colour[..., 0] > 127)).max() == 255
    assert np.array_equal(np.asarray(as_image(colour[::-1, ::-1])), colour[::-1, ::-1])  # strided


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((3, 8, 8), np.uint8), "an array of uint8, 3×8×8: give uint8, or floats from 0 to 1, of H×W"),
        (np.zeros((8, 8), np.int64), "int64, 8×8"),
        (np.zeros((8, 8), np.uint16), "uint16"),
        (np.zeros((0, 8), np.uint8), "0×8"),
        (np.zeros(8), "float64, 8:"),
        (np.full((2, 2), 1.5), r"floats from 1\.5 to 1\.5: they must be from 0 to 1"),
        (np.full((2, 2), np.nan), "floats from nan to nan"),
        (np.array([["a"]]), "<U1"),
        ("nowhere.png", r"cannot read the image nowhere\.png: No such file"),
        ("https://example.org/a.png", "No such file"),
        ("a\0.png", "null"),
        (".", "cannot read the image"),
        (Image.new("L", (0, 4)), "0×4 pixels"),
    ],
)
def test_anything_else_is_one_clear_line(picture: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        as_image(picture)
    assert "\n" not in str(caught.value)


# 8 bits


def test_eight_bits_survive_the_round_trip() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(np.asarray(to_images(to_pixels(picture))[0]), picture[0])


def test_batches_are_all_pictures_in_order() -> None:
    pictures = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3)
    found = list(batches(pictures, 2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert torch.equal(torch.cat(found), to_pixels(pictures))


def test_values_are_rounded_not_truncated() -> None:
    assert np.asarray(to_images(torch.full((1, 3, 1, 1), 0.9999))[0]).max() == 255


def test_grid_places_pictures_row_by_row() -> None:
    sheet = np.asarray(grid(torch.linspace(0, 0.8, 5).view(5, 1, 1, 1).expand(5, 3, 2, 2), columns=3, gap=1))
    assert sheet.shape == (7, 10, 3)
    assert sheet[1, 4, 0] == 51  # the second picture
    assert sheet[4, 1, 0] == 153  # the fourth
    assert sheet[4, 7, 0] == 255  # nothing


def test_heat_map_runs_from_dark_to_bright() -> None:
    image = np.asarray(heat_map(torch.tensor([[0.0, 0.5, 1.0]]), (6, 2))).sum(2).astype(int)
    assert image.shape == (2, 6)
    assert image[0, 0] < image[0, 2] < image[0, 5]
