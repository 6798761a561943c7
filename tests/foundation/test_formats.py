"""Image files of every format, and the record inside."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resvg_py
from PIL import ExifTags, Image

from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.formats import SUFFIXES, encode, format_of, holds_image, read_record, save_animation, trace
from vqdiff.foundation.records import parameters

RECORD: dict[str, Any] = {
    "kind": "generate",
    "prompts": ["红苹果 <&> 'a' \"b\""],
    "negative": "a\nb",
    "seed": 3,
    "steps": 16,
    "guidance_interval": [0.0, 1.0],
    "version": "0.1.0",
}


@pytest.fixture
def drawing() -> Image.Image:
    image = Image.new("RGB", (64, 48), "white")
    image.paste((200, 30, 30), (8, 8, 40, 40))
    image.paste((20, 120, 200), (30, 20, 60, 44))
    return image


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_record_survives(suffix: str, drawing: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix.upper()}"
    path.write_bytes(encode(drawing, RECORD, format_of(path)))
    assert holds_image(path)
    read = read_record(path)
    assert read == RECORD | ({"quality": 95} if suffix in (".jpg", ".jpeg") else {})
    if suffix in (".png", ".webp"):
        with Image.open(path) as image:
            assert image.convert("RGB").tobytes() == drawing.tobytes()


def test_galleries_find_their_text(drawing: Image.Image) -> None:
    text = parameters(RECORD, drawing.size)
    with Image.open(io.BytesIO(encode(drawing, RECORD))) as image:
        assert image.info["parameters"] == text
    for name in ("jpeg", "webp"):
        with Image.open(io.BytesIO(encode(drawing, RECORD, name))) as image:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment == b"UNICODE\0" + text.encode("utf-16-be")


def test_a_text_in_latin_letters_is_a_plain_chunk(drawing: Image.Image) -> None:
    content = encode(drawing, RECORD | {"prompts": ["a red apple"]})
    assert b"tEXtparameters\0a red apple\nNegative prompt" in content


def test_a_file_of_another_program_is_read_as_far_as_it_goes(drawing: Image.Image, tmp_path: Path) -> None:
    content = encode(drawing, RECORD).replace(b"iTXtvqdiff", b"iTXtwqdiff")
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match="cannot read the image"):  # the check sum is wrong now
        read_record(tmp_path / "x.png")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0a cat\nSteps: 3, Seed: 5"
    drawing.save(tmp_path / "x.jpg", exif=exif)
    assert read_record(tmp_path / "x.jpg") == {"prompts": ["a cat"], "steps": 3, "seed": 5}


def test_an_animation_has_its_record(drawing: Image.Image, tmp_path: Path) -> None:
    frames = [drawing, drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    save_animation(frames, [100, 200], RECORD, tmp_path / "x.gif")
    assert read_record(tmp_path / "x.gif") == RECORD


def test_a_drawing_is_traced(drawing: Image.Image) -> None:
    content = bytes(resvg_py.svg_to_bytes(svg_string=encode(drawing, RECORD, "svg").decode()))
    with Image.open(io.BytesIO(content)) as image:
        back = image.convert("RGB")
    assert back.size == drawing.size
    away = np.abs(np.asarray(back, np.float32) - np.asarray(drawing, np.float32))
    assert away.mean() < 6
    assert back.getpixel((2, 2)) == (255, 255, 255)
    assert trace(drawing) == trace(drawing)


def test_a_record_too_long_for_a_jpeg_is_left_out_with_a_warning(drawing: Image.Image, tmp_path: Path) -> None:
    long = RECORD | {"prompts": ["x" * 70_000]}
    with pytest.warns(InputWarning, match="too long for a JPEG file"):
        (tmp_path / "x.jpg").write_bytes(encode(drawing, long, "jpeg"))
    (tmp_path / "x.webp").write_bytes(encode(drawing, long, "webp"))
    assert read_record(tmp_path / "x.webp") == long
    middle = RECORD | {"prompts": ["x" * 30_000]}
    (tmp_path / "x.jpg").write_bytes(encode(drawing, middle, "jpeg"))
    assert read_record(tmp_path / "x.jpg")["prompts"] == middle["prompts"]


@pytest.mark.parametrize("name", ["x.gif", "x.bmp", "x", "x.png.txt"])
def test_other_suffixes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"cannot write {name}"):
        format_of(name)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"<svg", b"<html/>", b"\x89PNG\r\n\x1a\n", b'<svg xmlns="http://www.w3.org/2000/svg"/>']
)
def test_a_file_without_a_record_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the image|has no record"):
        read_record(tmp_path / "x")


def test_svg_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vtracer", None)
    with pytest.raises(InputError, match=r"pip install 'vqdiff\[svg\]'"):
        format_of("x.svg")
