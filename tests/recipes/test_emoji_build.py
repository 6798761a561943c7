"""Building the emoji set: drawing, merging, writing, going on after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import vqdiff.data
from vqdiff.foundation.errors import InputError
from vqdiff.recipes.emoji import packages
from vqdiff.recipes.emoji.build import assemble, build
from vqdiff.recipes.emoji.packages import PACKAGES, Package, fetch
from vqdiff.recipes.emoji.render import RenderError, blank_png, draw_png, svg_document


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def built(archives, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("emoji") / "set"
    assemble(archives, output, workers=1)
    return output


# Drawing


def test_margin_and_size():
    square = {"width": 16, "height": 16, "icons": {"a": {"body": '<path d="M0 0h16v16H0z"/>'}}}
    picture = pixels(draw_png(svg_document(square, "a")))
    assert picture.shape == (128, 128, 3)
    ink = 1 - picture.mean() / 255
    assert ink == pytest.approx((16 / 17) ** 2, abs=1e-3)  # a 32nd of the side is left free on each side
    np.testing.assert_allclose(picture, picture[::-1, ::-1], atol=1)


def test_oblong_artwork_is_centred():
    wide = {"icons": {"a": {"body": '<path d="M0 0h32v16H0z"/>', "width": 32, "height": 16}}}
    picture = pixels(draw_png(svg_document(wide, "a")))
    assert 1 - picture.mean() / 255 == pytest.approx((16 / 17) ** 2 / 2, abs=1e-3)
    np.testing.assert_allclose(picture, picture[::-1, ::-1], atol=1)


def test_raster_artwork_gets_the_same_margin():
    stream = io.BytesIO()
    Image.new("RGBA", (256, 256), (0, 0, 0, 255)).save(stream, "WEBP", lossless=True)
    assert 1 - pixels(draw_png(stream.getvalue())).mean() / 255 == pytest.approx((16 / 17) ** 2, abs=2e-3)


def test_transparency_shows_white():
    faint = {"width": 16, "height": 16, "icons": {"a": {"body": '<path opacity=".5" fill="red" d="M0 0h16v16H0z"/>'}}}
    assert pixels(draw_png(svg_document(faint, "a")))[64, 64] == pytest.approx([255, 127.5, 127.5], abs=1)
    nothing = {"width": 16, "height": 16, "icons": {"a": {"body": '<path fill="#fff" d="M4 4h8v8H4z"/>'}}}
    assert draw_png(svg_document(nothing, "a")) == blank_png()


def test_a_renderer_failure_is_retried_at_another_size(monkeypatch):
    import resvg_py

    class Panic(BaseException):
        pass

    sizes = []
    real = resvg_py.svg_to_bytes

    def flaky(**options):
        sizes.append(options["width"])
        if len(sizes) == 1:
            raise Panic("index out of bounds")
        return real(**options)

    artwork = svg_document({"width": 16, "height": 16, "icons": {"a": {"body": '<circle cx="8" cy="8" r="8"/>'}}}, "a")
    usual = pixels(draw_png(artwork)).astype(int)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", flaky)
    assert np.abs(pixels(draw_png(artwork)) - usual).max() < 32  # the same picture, smoothed a little otherwise
    assert sizes[0] == 256 < sizes[1]

    def broken(**options):
        raise Panic("always")

    monkeypatch.setattr(resvg_py, "svg_to_bytes", broken)
    with pytest.raises(RenderError, match="always"):
        draw_png(artwork)


def test_unreadable_artwork():
    with pytest.raises(RenderError):
        draw_png(b"RIFF no picture")


# The whole build


def test_rows_match_a_recorded_build(built, expected_rows):
    """Every column of every row, as an independent build of the whole set has it."""
    rows = []
    for path in (built / "data").glob("*.parquet"):
        for row in parquet.read_table(path).drop_columns(["image"]).to_pylist():
            rows.append(row | {"split": path.name.split("-")[0]})
    key = lambda row: (row["style"], row["icon"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(expected_rows, key=key)


def test_same_pictures_are_merged(built):
    rows = parquet.read_table(built / "data").drop_columns(["image"]).to_pylist()
    (snowboarder,) = [row for row in rows if row["icon"].startswith("snowboarder")]  # one drawing for all skin tones
    assert len(snowboarder["same_as"]) == 5
    assert snowboarder["caption"] == "snowboarder, noto style"
    assert len(snowboarder["captions"]) == 12
    assert ("gradient", "tongue") not in {(row["style"], row["icon"]) for row in rows}  # the flat one, once more
    assert ("blob", "asterisk") not in {(row["style"], row["icon"]) for row in rows}  # white on white


def test_folder_is_complete_and_self_describing(built):
    assert {path.name for path in built.iterdir()} == {"data", "README.md", "LICENSES.json"}
    assert not list(built.parent.glob(".*"))  # nothing half-done is left beside it
    records = json.loads((built / "LICENSES.json").read_text("utf-8"))
    assert {record["license"] for record in records} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    assert "# Emoji in 9 styles" in (built / "README.md").read_text("utf-8")
    assert sum(record.get("pictures", 0) for record in records) == parquet.read_table(built / "data").num_rows
    assert all(record["attribution"] and record["version"] for record in records)
    assert "path: data/test_concept-*.parquet" in (built / "README.md").read_text("utf-8")


def test_the_same_input_gives_the_same_bytes(built, archives, tmp_path):
    assemble(archives, tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(built)


def test_an_interrupted_build_goes_on_where_it_stopped(built, archives, tmp_path):
    started = []

    def interrupted(items, description, total):
        started.append(total)
        yield next(iter(items))
        raise KeyboardInterrupt

    def counted(items, description, total):
        started.append(total)
        return items

    with pytest.raises(KeyboardInterrupt):
        assemble(archives, tmp_path / "set", workers=1, track=interrupted)
    assert not (tmp_path / "set").exists()
    assemble(archives, tmp_path / "set", workers=1, track=counted)
    assert started[1] < started[0]
    assert contents(tmp_path / "set") == contents(built)


def test_the_built_set_loads(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "set")  # loading leaves a cache there
    train = vqdiff.data.load(folder, "train", 64)
    assert train.pixels.shape == (len(train), 64, 64, 3)
    assert {"style", "role"} <= set(train.columns)


# Fetching


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        build(tmp_path, tmp_path / "cache")


def test_only_the_pinned_archive_is_taken(tmp_path):
    data = b"some archive"
    import base64

    good = Package("a-package", "1.0.0", base64.b64encode(hashlib.sha512(data).digest()).decode())
    (tmp_path / "a-package-1.0.0.tgz").write_bytes(data)
    assert fetch(good, tmp_path).read_bytes() == data
    (tmp_path / "a-package-1.0.0.tgz").write_bytes(b"tampered")
    with pytest.raises(InputError, match="sha512 differs"):
        fetch(good, tmp_path)


def test_npm_is_required(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="install Node"):
        fetch(PACKAGES[0], tmp_path)


def test_archives_are_called_as_npm_calls_them():
    assert Package("@iconify-json/noto", "1.2.9", "").archive == "iconify-json-noto-1.2.9.tgz"


@pytest.mark.network
def test_fetch_from_the_registry(tmp_path):
    smallest = next(package for package in PACKAGES if package.name == "emojilib")
    path = fetch(smallest, tmp_path)
    assert "dist/emoji-en-US.json" in packages.read(path, "dist/")
    assert [path] == list(tmp_path.iterdir())
