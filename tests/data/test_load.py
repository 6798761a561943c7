"""Loading folders of pictures with captions, whatever their layout."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from picture_sets import numbered, picture, with_metadata
from vqdiff.data import load, sampling_weights
from vqdiff.foundation.errors import InputError

# Layouts


def test_sample_of_the_emoji_set(sample):
    train = load(sample, "train", 128)
    assert train.pixels.shape == (len(train.captions), 128, 128, 3)
    assert train.pixels.dtype == np.uint8
    assert isinstance(train.pixels, np.memmap)
    assert set(train.columns["style"]) >= {"noto", "flat", "3d"}
    assert train.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(train.weights, sampling_weights(train.columns["role"]))
    test = load(sample, "test", 32)
    assert len(test) == sum(len(load(sample, f"test_{name}", 32)) for name in ("comp", "style", "concept"))
    assert not set(train.columns["role"]) & set(load(sample, "test_concept", 32).columns["role"])


def test_metadata_with_split_folders(tmp_path):
    with_metadata(tmp_path / "train", numbered(5))
    with_metadata(tmp_path / "test", [{"file_name": "a.jpg", "captions": ["one", " two "], "style": "pen"}])
    assert load(tmp_path, "train", 16).captions == [[f"number {number}"] for number in range(5)]
    test = load(tmp_path, "test", 16)
    assert test.captions == [["one", "two"]]
    assert test.columns["style"].tolist() == ["pen"]


def test_pixels_are_those_of_the_named_file(tmp_path):
    rows = [{"file_name": f"{number:02}.png", "text": "x"} for number in (3, 1, 2)]
    with_metadata(tmp_path / "train", rows)
    with_metadata(tmp_path / "test", numbered(1))
    shades = load(tmp_path, "train", 16).pixels[:, 0, 0, 0]
    assert shades.tolist() == [0, 1, 2]  # in the order of the metadata, in which they were drawn


def test_text_files_beside_pictures(tmp_path):
    (tmp_path / "train" / "deeper").mkdir(parents=True)
    picture(7).save(tmp_path / "train" / "deeper" / "a.webp", lossless=True)
    (tmp_path / "train" / "deeper" / "a.txt").write_text("a small thing\n\nanother caption\n")
    (tmp_path / "test").mkdir()
    picture(8).save(tmp_path / "test" / "b.PNG")
    (tmp_path / "test" / "b.txt").write_text("b")
    assert load(tmp_path, "train", 8).captions == [["a small thing", "another caption"]]
    assert load(tmp_path, "test", 8).captions == [["b"]]


def test_a_folder_without_splits_is_divided_for_good(tmp_path):
    folder = with_metadata(tmp_path / "pictures", numbered(100))
    train, test = load(folder, "train", 16), load(folder, "test", 16)
    assert (len(train), len(test)) == (98, 2)
    texts = {texts[0] for part in (train, test) for texts in part.captions}
    assert texts == {f"number {number}" for number in range(100)}
    for part in (train, test):  # pixels go with their captions
        assert [f"number {shade}" for shade in part.pixels[:, 0, 0, 0]] == [texts[0] for texts in part.captions]


def test_parquet_of_another_maker(tmp_path):
    def png(shade: int) -> bytes:
        stream = io.BytesIO()
        picture(shade).save(stream, "PNG")
        return stream.getvalue()

    for shard in range(2):
        table = pa.table({"image": [png(2 * shard), png(2 * shard + 1)], "text": ["p", "q"], "weight": [1.0, 3.0]})
        parquet.write_table(table, tmp_path / f"train-{shard:05}-of-00002.parquet")
    parquet.write_table(table, tmp_path / "validation.parquet")
    train = load(tmp_path, "train", 16)
    assert train.captions == [["p"], ["q"]] * 2
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(train.weights, [1 / 8, 3 / 8] * 2)


@pytest.mark.slow
def test_hugging_face_datasets_reads_the_same(sample):
    datasets = pytest.importorskip("datasets")
    theirs = datasets.load_dataset(str(sample), split="test_style", streaming=True)
    ours = load(sample, "test_style", 128)
    for row, pixels, captions in zip(theirs, ours.pixels, ours.captions, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), pixels)
        assert row["captions"] == captions


# Pixels


def test_pictures_are_put_on_white_cropped_and_resized(tmp_path):
    folder = with_metadata(tmp_path / "train", numbered(3))
    with_metadata(tmp_path / "test", numbered(1))
    wide = picture(255, (48, 16))
    wide.paste((0, 255, 0), (16, 0, 32, 16))
    wide.save(folder / "00.png")
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(folder / "01.png")
    Image.fromarray(np.indices((16, 16)).sum(0).astype(np.uint8) % 2 * 255).save(folder / "02.png")
    cropped, clear, chequered = load(tmp_path, "train", 8).pixels
    assert (cropped == (0, 255, 0)).all()
    assert (clear == 255).all()
    assert (np.abs(chequered.astype(int) - 127.5) < 1).all()  # each pixel is the mean of four


def test_the_cache_follows_the_pictures(tmp_path):
    folder = with_metadata(tmp_path / "train", numbered(2))
    with_metadata(tmp_path / "test", numbered(1))
    assert load(tmp_path, "train", 16).pixels[0, 0, 0, 0] == 0
    (cache,) = (tmp_path / ".cache").glob("train-16-*")
    written = (cache / "array.npy").stat().st_mtime_ns
    assert load(tmp_path, "train", 16).pixels[0, 0, 0, 0] == 0
    assert (cache / "array.npy").stat().st_mtime_ns == written  # read, not written again
    picture(99).save(folder / "00.png")
    os.utime(folder / "00.png", ns=(1, 1))
    assert load(tmp_path, "train", 16).pixels[0, 0, 0, 0] == 99
    assert len(list((tmp_path / ".cache").glob("train-16-*"))) == 1  # the stale one is gone


def test_captions_that_change_are_read_again(tmp_path):
    folder = with_metadata(tmp_path / "train", numbered(2))
    with_metadata(tmp_path / "test", numbered(1))
    load(tmp_path, "train", 16)
    (folder / "metadata.jsonl").write_text('{"file_name": "00.png", "caption": "a longer text"}')
    assert load(tmp_path, "train", 16).captions == [["a longer text"], []]


def test_weights_make_roles_count_by_their_root():
    weights = sampling_weights(["a"] * 4 + ["b"])
    assert weights[:4].sum() / weights[4] == pytest.approx(2)
    assert weights.sum() == pytest.approx(1)


# Mistakes


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no folder"),
        (lambda folder: folder.mkdir(), "no images"),
        (lambda folder: with_metadata(folder / "test", numbered(1)), "no split 'train'; it has test"),
        (lambda folder: (with_metadata(folder / "train", numbered(2)) / "metadata.jsonl").write_text("{"), "entry 1"),
        (lambda folder: (with_metadata(folder / "train", numbered(2)) / "metadata.jsonl").write_bytes(b"\xff"), "UTF"),
        (lambda folder: with_metadata(folder, numbered(1)), "one image cannot be divided"),
        (lambda folder: parquet.write_table(pa.table({"a": [1]}), made(folder) / "train.parquet"), "no column 'image'"),
        (lambda folder: (made(folder) / "train.parquet").write_bytes(b"?"), "cannot read"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, prepare, message):
    folder = tmp_path / "pictures"
    prepare(folder)
    if (folder / "train").exists():
        with_metadata(folder / "test", numbered(1))
    with pytest.raises(InputError, match=message):
        load(folder, "train", 16)
    assert not list(folder.glob(".cache/*.part")) + list(folder.glob(".cache/train*"))


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("weight", ["heavy", -1, 0])
def test_weights_must_be_weights(tmp_path, weight):
    with_metadata(tmp_path / "train", [row | {"weight": weight} for row in numbered(2)])
    with_metadata(tmp_path / "test", numbered(1))
    with pytest.raises(InputError, match="'weight' must hold"):
        load(tmp_path, "train", 16)
