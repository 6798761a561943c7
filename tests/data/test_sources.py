"""Every layout a set may have: pictures go with their captions and columns, from wherever both come."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from picture_sets import encoded, numbered, picture, shades, tar_of, with_metadata
from vqdiff.data import load
from vqdiff.data.cache import ImageError, ahead
from vqdiff.data.hub import fetch
from vqdiff.data.shards import reader
from vqdiff.data.sources import Row
from vqdiff.data.splits import find_splits
from vqdiff.foundation.errors import InputError

datasets = pytest.importorskip("datasets")


def files_of(shade: int, **others: bytes) -> dict[str, bytes]:
    key = f"{shade:04}"
    return {f"{key}.jpg": encoded(shade, "JPEG"), **{f"{key}.{suffix}": content for suffix, content in others.items()}}


# Folders


def test_metadata_csv(tmp_path):
    for shade in range(2):
        picture(shade).save(tmp_path / f"{shade}.png")
    (tmp_path / "metadata.csv").write_text('file_name,caption,label\n1.png,"a, b",cat\n0.png,"two\nlines",dog\n')
    source = find_splits(tmp_path)["train"]()
    rows = [(row.name, row.columns) for row in source.rows()]
    assert rows == [
        ("1.png", {"caption": "a, b", "label": "cat"}),
        ("0.png", {"caption": "two\nlines", "label": "dog"}),
    ]


def test_folders_of_classes(tmp_path):
    for split in ("train", "test"):
        for shade, name in enumerate(["cat", "dog", "cat"] if split == "train" else ["dog"]):
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            picture(shade).save(tmp_path / split / name / f"{shade}.png")
    train = load(tmp_path, "train", 16)
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1]
    assert shades(train) == [0, 2, 1]
    assert train.captions == [[], [], []]
    assert load(tmp_path, "test", 16).labels.tolist() == [0]  # alone it knows but one class,
    assert load(tmp_path, "test", 16, train.class_names).labels.tolist() == [1]  # unless given more
    with pytest.raises(InputError, match="class 'dog' is not one of the known ones, cat"):
        load(tmp_path, "test", 16, ("cat",))


def test_numbered_class_folders_are_in_order(tmp_path):
    for name in ("10", "9", "1"):
        (tmp_path / "train" / name).mkdir(parents=True)
        picture(int(name)).save(tmp_path / "train" / name / "a.png")
    (tmp_path / "test" / "9").mkdir(parents=True)
    picture(1).save(tmp_path / "test" / "9" / "a.png")
    train = load(tmp_path, "train", 16)
    assert train.class_names == ("1", "9", "10")
    assert dict(zip(shades(train), train.labels.tolist(), strict=True)) == {1: 0, 9: 1, 10: 2}


def test_pictures_alone_are_an_unconditional_set(tmp_path):
    for shade in range(60):
        picture(shade).save(tmp_path / f"{shade}.png")
    train, test = load(tmp_path, "train", 16), load(tmp_path, "test", 16)
    assert (len(train), len(test)) == (59, 1)
    assert train.labels is None
    with pytest.raises(InputError, match=r"0\.png has no caption \(59 of 59 images have none\)"):
        train.require_captions()
    with pytest.raises(InputError, match=r"0\.png has no label"):
        train.require_labels()


@pytest.mark.parametrize("labels", [[0, 4, None, 2], ["0", "4", "", "2"]])
def test_labels_that_are_numbers(tmp_path, labels):
    rows = [row | {"label": label} for row, label in zip(numbered(4), labels, strict=True)]
    with_metadata(tmp_path / "test", rows)
    test = load(tmp_path, "test", 16)
    assert test.labels.tolist() == [0, 4, -1, 2]
    assert test.num_classes == 5
    assert "label" not in test.columns
    test.require_captions()
    with pytest.raises(InputError, match=r"02\.png has no label \(1 of 4 images have none\)"):
        test.require_labels()


@pytest.mark.parametrize("label", [-1, 1.5, True, [1]])
def test_labels_must_be_labels(tmp_path, label):
    with_metadata(tmp_path / "train", [row | {"label": label} for row in numbered(2)])
    with pytest.raises(InputError, match="a label must be"):
        load(tmp_path, "train", 16)


def test_a_column_must_be_of_one_kind(tmp_path):
    rows = [row | {"age": age} for row, age in zip(numbered(2), [3, "three"], strict=True)]
    with_metadata(tmp_path / "test", rows)
    with pytest.raises(InputError, match="column 'age'"):
        load(tmp_path, "test", 16)


# Shards


def test_tars(tmp_path):
    said = json.dumps({"caption": "in json", "style": "pen"}).encode()
    first = files_of(0, txt=b"zero\nnought") | files_of(1, json=said) | {"README.md": b"not a sample"}
    tar_of(tmp_path / "shard-000000.tar", first | files_of(2))
    tar_of(tmp_path / "shard-000001.tar", {f"deep/{name}": content for name, content in files_of(3, cls=b"7").items()})
    tar_of(tmp_path / "test-0.tar", files_of(9, txt=b"nine"))
    train = load(tmp_path, "train", 16)
    assert train.captions == [["zero", "nought"], ["in json"], [], []]
    assert train.columns["style"].tolist() == [None, "pen", None, None]
    assert train.labels.tolist() == [-1, -1, -1, 7]
    assert np.abs(np.array(shades(train)) - [0, 1, 2, 3]).max() < 6  # as near as a JPEG is
    assert list(train.names)[3] == "shard-000001.tar: deep/0003"
    assert load(tmp_path, "test", 16).captions == [["nine"]]


def test_a_tar_without_a_test_split_is_divided(tmp_path):
    files = {name: content for shade in range(100) for name, content in files_of(shade, txt=b"%d" % shade).items()}
    tar_of(tmp_path / "pictures.tar", files)
    parts = [load(tmp_path, split, 16) for split in ("train", "test")]
    assert [len(part) for part in parts] == [98, 2]
    assert sorted(int(texts[0]) for part in parts for texts in part.captions) == list(range(100))


@pytest.mark.parametrize("where", [600, 100])
def test_a_tar_that_was_not_copied_whole(tmp_path, capsys, where):
    """It ends in the second picture, or in the header before it."""
    path = tar_of(tmp_path / "test.tar", files_of(0, txt=b"a") | files_of(1) | files_of(200, txt=b"b"))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"0200.jpg") + where])
    assert load(tmp_path, "test", 16).captions[0] == ["a"]
    assert "test.tar: what follows" in capsys.readouterr().err


def test_parquet_with_class_names_of_datasets(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tree", "house"])})
    rows = {"image": [{"bytes": encoded(shade), "path": None} for shade in (5, 6)], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    test = load(tmp_path, "test", 16)
    assert (shades(test), test.labels.tolist(), test.class_names) == ([5, 6], [1, 0], ("tree", "house"))


def test_shards_in_folders_and_with_bare_numbers(tmp_path):
    for number, name in enumerate(["train/00000.parquet", "train/00001.parquet", "validation/00000.parquet"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pa.table({"image": [encoded(number)], "text": ["x"]}), tmp_path / name)
    assert list(find_splits(tmp_path)) == ["train", "validation"]
    assert shades(load(tmp_path, "train", 16)) == [0, 1]
    assert shades(load(tmp_path, "validation", 16)) == [2]


# The library datasets


def saved(folder: Path) -> Path:
    rows = {"image": [{"bytes": encoded(shade), "path": None} for shade in range(3)], "text": ["a", "b", "c"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([2])}).save_to_disk(folder)
    return folder


def test_what_datasets_saved(tmp_path):
    train = load(saved(tmp_path / "set"), "train", 16)
    assert (shades(train), train.captions) == ([0, 1, 2], [["a"], ["b"], ["c"]])
    assert shades(load(tmp_path / "set", "test", 16)) == [2]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder that stands for owner/name on the Hub, and a place for what is made of it."""
    folder = with_metadata(tmp_path / "remote" / "train", [row | {"label": "x"} for row in numbered(30)]).parent
    build = datasets.load_dataset_builder

    def local(name: str):
        assert name == "owner/name"
        return build(str(folder), cache_dir=str(tmp_path / "datasets"))

    monkeypatch.setattr(datasets, "load_dataset_builder", local)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return folder


def test_a_set_on_the_hub_is_streamed(hub, tmp_path):
    (hub / "train" / "03.png").write_bytes(b"broken")
    train = load("hub:owner/name", "train", 16)
    assert [f"number {shade}" for shade in shades(train)] == [texts[0] for texts in train.captions]
    assert 3 not in shades(train)
    assert train.class_names == ("x",)
    assert not list((tmp_path / "datasets").rglob("*.arrow"))
    assert list((tmp_path / "user").rglob("array.npy"))


def test_a_webdataset_on_the_hub(hub, tmp_path):
    (hub / "train" / "metadata.jsonl").unlink()
    for path in hub.glob("train/*.png"):
        path.unlink()
    said = json.dumps({"style": "pen"}).encode()
    samples = [files_of(shade, txt=b"a\nb %d" % shade, json=said, cls=b"3") for shade in (0, 50)]
    tar_of(hub / "test" / "0.tar", samples[0] | samples[1])
    test = load("hub:owner/name", "test", 16)
    assert test.captions == [["a", "b 0"], ["a", "b 50"]]
    assert test.labels.tolist() == [3, 3]
    assert test.columns["style"].tolist() == ["pen", "pen"]
    assert np.abs(np.array(shades(test)) - [0, 50]).max() < 6


def test_only_what_begins_with_hub_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: pytest.fail("the Hub was contacted"))
    with pytest.raises(InputError, match=r"no folder owner/name; .* as hub:owner/name"):
        load("owner/name", "train", 16)


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    def unknown(name: str):
        raise datasets.exceptions.DatasetNotFoundError("doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset_builder", unknown)
    with pytest.raises(InputError, match="cannot open owner/nothing on the Hugging Face Hub: doesn't exist"):
        load("hub:owner/nothing", "train", 16)


# The Hub


def test_a_bad_connection_is_no_broken_picture(tmp_path, monkeypatch):
    """Some patience; then the whole set waits, instead of leaving pictures out for good."""
    fsspec = pytest.importorskip("fsspec")
    tries = []

    def unreliable(path, mode):
        tries.append(path)
        if len(tries) < 3 or "gone" in path:
            raise ConnectionResetError("reset by peer")
        return io.BytesIO(b"a picture")

    monkeypatch.setattr(fsspec, "open", unreliable)
    at_once = partial(fetch, pause=0.0)
    read = reader({"bytes": None, "path": "hf://datasets/a/b/1.png"}, at_once)
    assert read() == b"a picture"
    assert len(tries) == 3
    lost = reader({"bytes": None, "path": "hf://datasets/a/b/gone.png"}, at_once)
    with pytest.raises(InputError, match="reset by peer"):
        list(ahead(iter([Row("1", lost, {})]), lambda row: row.picture(), 1))
    tries.clear()
    for path in ("https://dead.example/gone.png", "picture_sets.py"):  # the second is in no set, but may be here
        elsewhere = reader({"bytes": None, "path": path}, at_once)
        (((_, found),),) = ahead(iter([Row("1", elsewhere, {})]), lambda row: row.picture(), 1)
        assert isinstance(found, ImageError)
        assert path in str(found)
    assert not tries
