"""What people's folders and shards hold besides clean pictures: each is taken or named, all of it at once."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from picture_sets import GREY16, encoded, numbered, picture, shades, tar_of, with_metadata
from vqdiff.data import load
from vqdiff.data.check import SplitReport, check
from vqdiff.data.splits import find_splits
from vqdiff.foundation.errors import InputError


def checked(data: str | Path) -> SplitReport:
    (report,) = check(data, [])
    return report


def captions(data: str | Path) -> dict[str, list[str]]:
    from vqdiff.data.rows import captions_of

    (read,) = find_splits(data).values()
    return {row.name: captions_of(row.columns) for row in read().rows() if row.is_image_file}


def with_texts(folder: Path, texts: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(texts.items()):
        picture(number).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_bytes(text)
    return folder


# Pictures


def test_depths_of_a_set_are_scaled(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.png").write_bytes(GREY16.read_bytes())
    Image.new("I", (16, 16), 70_000).save(tmp_path / "test" / "deep.tif")
    (report,) = check(tmp_path, [])
    (fault,) = report.faults()
    assert "deep.tif cannot be read: values from 70000 to 70000 in an image of mode I cannot be shown" in fault
    pixels = load(tmp_path, "test", 8).pixels
    assert len(pixels) == 1
    assert pixels.min() < 100  # a ramp, not white
    assert pixels.max() > 200


@pytest.mark.parametrize("suffix", [".ppm", ".tga", ".jp2", ".avif", ".jfif"])
def test_other_formats_of_pil_are_pictures(tmp_path, suffix):
    (tmp_path / "test").mkdir()
    picture(200).save(tmp_path / "test" / f"a{suffix}", "JPEG" if suffix == ".jfif" else None)
    assert abs(int(shades(load(tmp_path, "test", 16))[0]) - 200) < 6


def test_pictures_that_pil_does_not_know_are_named(tmp_path):
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"ftypheic")
    assert checked(tmp_path).faults() == ["train: b.HEIC cannot be read: it is not an image in a known format"]


# Captions


ENCODINGS = {
    "latin": ("der Bär in Köln".encode("latin-1"), "(byte 5 is 0xe4): it looks like Latin-1"),
    "chinese": ("红苹果".encode("gb18030"), "(byte 0 is 0xba): it looks like GB18030"),
    "wide": ("an apple".encode("utf-16"), "(byte 0 is 0xff): it looks like UTF-16"),
    "unmarked": ("an apple".encode("utf-16-le"), "(byte 1 is 0): it looks like UTF-16"),
}


def test_captions_of_all_encodings_are_named_at_once(tmp_path):
    texts = {name: content for name, (content, _) in ENCODINGS.items()}
    folder = with_texts(tmp_path, texts | {"plain": b"an apple", "marked": b"\xef\xbb\xbfa pear\r\na plum\r\n"})
    report = checked(folder)
    lines = report.faults()
    assert len(lines) == len(ENCODINGS)
    for name, (_, says) in ENCODINGS.items():
        (line,) = (line for line in lines if f"{name}.png: " in line)
        assert f"{name}.txt must be UTF-8 text {says}" in line
        assert "-t UTF-8`" in line
    assert report.captions == {"an apple": 1, "a pear": 1, "a plum": 1}
    with pytest.raises(
        InputError, match=r"chinese\.png: .*chinese\.txt must be UTF-8 text.*`vqdiff data check` lists all"
    ):
        load(folder, "train", 16)
    assert not list(folder.glob(".cache/*.part"))


def test_captions_in_a_tar_too(tmp_path):
    bad = {f"{name}.txt": content for name, (content, _) in ENCODINGS.items()}
    files = {
        file: content for name in sorted(bad) for file, content in ((f"{name[:-4]}.png", encoded(3)), (name, bad[name]))
    }
    files |= {"z.png": encoded(4), "z.json": b"{half", "zz.png": encoded(5), "zz.txt": b"\xef\xbb\xbffine"}
    lines = checked(tar_of(tmp_path / "a.tar", files).parent).faults()
    assert len(lines) == 5
    assert all("must be UTF-8 text" in line for line in lines[:4])
    assert lines[4].startswith("train: a.tar: z: z.json cannot be read: ")
    assert captions(tmp_path)["a.tar: zz"] == ["fine"]


def test_names_in_a_table_are_not_looked_up_before_they_are_checked(tmp_path, monkeypatch):
    folder, looked_up = with_metadata(tmp_path, numbered(3)), list[str]()
    (folder / "a").mkdir()
    (folder / "00.png").replace(folder / "a" / "00.png")
    lines = (folder / "metadata.jsonl").read_text().replace('"00.png', '"a\\\\00.png').splitlines()
    (folder / "metadata.jsonl").write_text("\n".join([*lines, '{"file_name": "../elsewhere.png"}']))

    exists = os.path.exists
    monkeypatch.setattr("os.path.exists", lambda path: looked_up.append(str(path)) or exists(path))
    (fault,) = checked(folder).faults()
    assert "names ../elsewhere.png" in fault
    assert not [path for path in looked_up if path.endswith(("elsewhere.png", "01.png"))]


def test_every_entry_of_a_table_that_says_nothing_is_named(tmp_path):
    folder = with_metadata(tmp_path, numbered(3))
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines += ["{", '"00.png"', '{"caption": "of what?"}', '{"file_name": 7}', '{"file_name": "01.png", "label": -1}']
    lines += ['{"file_name": "../elsewhere.png"}', '{"file_name": "02.png", "caption": "caf\\ud83d"}']
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    faults = checked(folder).faults()
    for number, says in (
        (4, "must name a file"),
        (5, "must name a file"),
        (6, "must name a file"),
        (7, "its file_name is 7"),
        (9, "names ../elsewhere.png, which lies outside of"),
    ):
        (line,) = (line for line in faults if f"metadata.jsonl entry {number}: " in line)
        assert says in line
    assert [line for line in faults if line.startswith("train: 0")] == [
        "train: 01.png: a label must be a whole number from 0 or the name of a class, not -1",
        "train: 02.png: its caption contains half a character (a lone surrogate): write it again",
    ]
    assert len(faults) == 7
    with pytest.raises(InputError, match=r"metadata\.jsonl entry 4: must name a file"):
        load(folder, "train", 16)


def test_text_files_with_other_endings(tmp_path):
    with_texts(tmp_path, {})
    Image.new("RGB", (16, 16)).save(tmp_path / "UP.JPEG")
    (tmp_path / "UP.TXT").write_text("shouted")
    picture(1).save(tmp_path / "two.png")
    (tmp_path / "two.png.txt").write_text("with both")
    picture(2).save(tmp_path / "three.png")
    (tmp_path / "three.caption").write_text("in a way of its own")
    (tmp_path / "orphan.txt").write_text("of a lost picture")
    report = checked(tmp_path)
    assert captions(tmp_path) == {"UP.JPEG": ["shouted"], "two.png": ["with both"], "three.png": []}
    assert report.faults() == ["train: three.png has no caption"]
    assert "  not read: 2 other files: orphan.txt, three.caption" in report.summary(16)


@pytest.mark.parametrize("column", ["prompt", "text", "caption", "captions", "TEXT", "Prompt"])
def test_columns_of_captions(tmp_path, column):
    rows = [{"file_name": f"{n}.png", column: f"number {n}"} for n in range(2)]
    with_metadata(tmp_path / "test", rows)
    assert load(tmp_path, "test", 16).captions == [["number 0"], ["number 1"]]
    assert column not in load(tmp_path, "test", 16).columns


def test_a_column_label_is_a_class(tmp_path):
    with_metadata(tmp_path, [{"file_name": f"{n}.png", "Label": "ab"[n]} for n in range(2)])
    assert checked(tmp_path).labels == {"a": 1, "b": 1}


def test_columns_that_are_not_captions_are_mentioned(tmp_path):
    with_metadata(tmp_path, [{"file_name": f"{n}.png", "title": "x", "year": 1} for n in range(2)])
    assert "  captions: none (there are columns title, year); suitable for a model that needs none" in checked(
        tmp_path
    ).summary(1)


def test_metadata_json(tmp_path):
    folder = with_metadata(tmp_path, numbered(2))
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.json").write_text(json.dumps(numbered(2)))
    assert captions(folder) == {"00.png": ["number 0"], "01.png": ["number 1"]}
    for content, says in (('{"a": 1}', "must be a list of objects"), ("{", "it is not JSON")):
        (folder / "metadata.json").write_text(content)
        faults = checked(folder).faults()
        assert len(faults) == 1
        assert faults[0].startswith("train: metadata.json: ")
        assert says in faults[0]


def test_tables_may_lie_above_and_below(tmp_path):
    for name in ("train/a/0.png", "test/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        picture(3).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,caption\ntrain/a/0.png,above\n")
    (tmp_path / "test" / "Metadata.JSONL").write_text('{"file_name": "0.png", "text": "within"}')
    assert load(tmp_path, "train", 16).captions == [["above"]]
    assert load(tmp_path, "test", 16).captions == [["within"]]


def test_several_entries_of_a_picture_each_bring_a_caption(tmp_path):
    rows = [{"file_name": "0.png", "caption": text} for text in ("one", "two", "one")]
    assert captions(with_metadata(tmp_path, rows)) == {"0.png": ["one", "two"]}


def test_a_table_with_more_values_than_columns(tmp_path):
    picture(0).save(tmp_path / "0.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\n0.png,a, b, c\n")
    (fault, *_) = checked(tmp_path).faults()
    assert fault.startswith("train: metadata.csv entry 1: has more values than there are columns: [' b', ' c']")


@pytest.mark.parametrize("relative", [True, False])
def test_absolute_names_in_a_table(tmp_path, monkeypatch, relative):
    """Whether the folder is named from the working directory or not."""
    folder = tmp_path / "set"
    with_metadata(folder, numbered(2))
    rows = [{"file_name": str(folder / "00.png"), "caption": "zero"}, {"file_name": "/etc/01.png", "caption": "one"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    data = "set" if relative else folder
    assert captions(data) == {"00.png": ["zero"], "01.png": []}
    faults = checked(data).faults()
    assert faults[0] == (
        f"train: metadata.jsonl entry 2: names /etc/01.png, which lies outside of {data}: "
        "name files relative to the table's folder"
    )


def test_absolute_names_through_a_link(tmp_path):
    with_metadata(tmp_path / "real", numbered(1))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    row = {"file_name": str(tmp_path / "real" / "00.png"), "caption": "zero"}
    (tmp_path / "real" / "metadata.jsonl").write_text(json.dumps(row))
    assert captions(tmp_path / "link") == {"00.png": ["zero"]}


# Where pictures lie


def test_a_stray_picture_beside_class_folders(tmp_path):
    for number, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png", "stray.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(number).save(tmp_path / name)
    report = checked(tmp_path)
    assert report.labels == {"cat": 2, "dog": 1}
    assert report.faults() == ["train: stray.png has no class"]
    (tmp_path / "test").mkdir()
    for name in ("cat", "dog", "stray.png"):
        (tmp_path / name).rename(tmp_path / "test" / name)
    with pytest.raises(InputError, match=r"stray\.png has no label \(1 of 4 images have none\)"):
        load(tmp_path, "test", 16).require_labels()


def test_pictures_here_and_there_are_no_classes(tmp_path):
    for number, name in enumerate(("0.png", "1.png", "more/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(number).save(tmp_path / name)
    report = checked(tmp_path)
    assert not report.labels
    assert report.faults() == []


def test_pictures_beside_splits_are_named(tmp_path, capsys):
    with_metadata(tmp_path / "train", numbered(2))
    with_metadata(tmp_path / "test", numbered(1))
    picture(9).save(tmp_path / "stray.png")
    (tmp_path / "more").mkdir()
    picture(9).save(tmp_path / "more" / "stray.png")
    faults = [fault for report in check(tmp_path, []) for fault in report.faults()]
    assert [fault.partition(" is left out: it is outside of the splits, test, train")[0] for fault in faults] == [
        "train: more/stray.png",
        "train: stray.png",
    ]
    assert len(load(tmp_path, "train", 16)) == 2
    assert "2 of 4 images cannot be read and are left out: more/stray.png, stray.png" in capsys.readouterr().err


def test_what_systems_leave_behind_is_ignored(tmp_path):
    folder = with_metadata(tmp_path / "set", numbered(3))
    for name in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._metadata.jsonl", "empty/", "__MACOSX/._a.png"):
        (folder / name).mkdir() if name.endswith("/") else None
        if not name.endswith("/"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\0\5\26\7")
    report = checked(folder)
    assert (report.pictures, report.faults(), report.unread) == (3, [], [])
    files = {"._a.png": b"\0", "a.png": encoded(1), "._a.txt": b"\0", "a.txt": b"one", ".DS_Store": b"\0"}
    report = checked(tar_of(tmp_path / "tars" / "0.tar", files).parent)
    assert (report.pictures, report.faults(), report.captions) == (1, [], {"one": 1})
    (tmp_path / "tars" / "._0.tar").write_bytes(b"\0\5\26\7")
    assert checked(tmp_path / "tars").pictures == 1


def test_a_folder_of_other_things_says_what_it_has(tmp_path):
    for name in ("0.img", "1.img", "notes"):
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(InputError, match=r"no images in .* \(it has 2 \.img, 1 notes\); put images there"):
        find_splits(tmp_path)


def test_names_that_are_no_text(tmp_path):
    with_texts(tmp_path / "test", {"a": b"plain"})
    os.rename(tmp_path / "test" / "a.png", os.fsencode(tmp_path / "test") + b"/caf\xe9.png")
    os.rename(tmp_path / "test" / "a.txt", os.fsencode(tmp_path / "test") + b"/caf\xe9.txt")
    test = load(tmp_path, "test", 16)
    assert (list(test.names), test.captions) == ([r"caf\udce9.png"], [["plain"]])
    (tmp_path / "test").rename(tmp_path / "bare")  # no split: the picture's name decides
    picture(3).save(tmp_path / "bare" / "b.png")
    assert len(load(tmp_path / "bare", "train", 16)) == 1


# Tars

UNKNOWN = "is left out: there is no image of a known kind among"
TORN = "files of one sample must be consecutive"


def test_members_of_a_tar_that_share_a_key(tmp_path, capsys):
    files = {}
    for frame in range(2):
        for number in range(3):
            files |= {f"frame{frame}.{number:02}.png": encoded(number), f"frame{frame}.{number:02}.txt": b"x"}
    files |= {"good.png": encoded(7), "good.mask.png": encoded(8), "good.txt": b"good", "good.npy": b"?"}
    tar_of(tmp_path / "test.tar", files)
    report = checked(tmp_path)
    faults = report.faults()
    named = [fault.partition(" is left out: ")[0] for fault in faults]
    assert named == [
        *(f"test: test.tar: frame{frame}.{number:02}.png" for frame in range(2) for number in range(3)),
        "test: test.tar: good.mask.png",
    ]
    assert "its name up to the first dot is that of frame0.01.png, …" in faults[0]
    assert "  not read: 1 other files: test.tar: good.npy" in report.summary(16)
    test = load(tmp_path, "test", 16)
    assert (shades(test), test.captions) == ([7], [["good"]])
    assert "7 of 8 images cannot be read and are left out: test.tar: frame0.00.png" in capsys.readouterr().err


def test_a_tar_with_the_same_member_twice(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for shade in (1, 2):
            entry = tarfile.TarInfo("0.png")
            entry.size = len(encoded(shade))
            tar.addfile(entry, io.BytesIO(encoded(shade)))
    assert len(checked(tmp_path).faults()) == 3  # both, and that nothing is left


def test_a_tar_without_known_pictures(tmp_path):
    files = {f"{n}.{suffix}": encoded(n) for n in range(2) for suffix in ("img", "cap")}
    report = checked(tar_of(tmp_path / "a.tar", files).parent)
    assert report.faults() == [
        f"train: a.tar: 0 {UNKNOWN} 0.img, 0.cap; {TORN}",
        f"train: a.tar: 1 {UNKNOWN} 1.img, 1.cap; {TORN}",
        "train: there are no images",
    ]
    with pytest.raises(InputError, match=r"no image can be read; a\.tar: 0: there is no image of a known kind"):
        load(with_test(tmp_path), "train", 16)


def with_test(folder: Path) -> Path:
    tar_of(folder / "test.tar", {"0.png": encoded(0)})
    return folder


def test_an_empty_tar_never_passes(tmp_path):
    tar_of(tmp_path / "a.tar", {})
    assert checked(tmp_path).faults() == ["train: there are no images"]


def test_samples_that_are_torn_apart_are_named(tmp_path):
    tar_of(tmp_path / "a.tar", {"0.png": encoded(0), "1.png": encoded(1), "0.txt": b"zero", "1.txt": b"one"})
    faults = checked(tmp_path).faults()
    assert [fault for fault in faults if TORN in fault] == [
        f"train: a.tar: {n} {UNKNOWN} {n}.txt; {TORN}" for n in range(2)
    ]


def test_links_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo("0.png")
        entry.size = len(encoded(5))
        tar.addfile(entry, io.BytesIO(encoded(5)))
        for name, kind, target in (("1.png", tarfile.LNKTYPE, "0.png"), ("2.png", tarfile.SYMTYPE, "none.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    report = checked(tmp_path)
    assert report.pictures == 3
    assert report.faults() == ["train: a.tar: 2 cannot be read: 2.png is a link to a missing file"]


def test_pictures_beside_tars_are_named(tmp_path):
    tar_of(tmp_path / "a.tar", {"0.png": encoded(0)})
    picture(1).save(tmp_path / "loose.png")
    assert checked(tmp_path).faults() == [
        "train: loose.png is left out: it is beside tars, and a set has one layout: put it into a tar"
    ]
    parquet.write_table(pa.table({"image": [encoded(0)]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="contains both parquet files and tars"):
        find_splits(tmp_path)


# Parquet files


@pytest.mark.parametrize("kind", ["struct", "text"])
def test_parquet_rows_with_a_path_alone(tmp_path, monkeypatch, kind):
    folder = tmp_path / "set"
    (folder / "test" / "pictures").mkdir(parents=True)
    for place, shade in (("test/pictures/0.png", 10), ("1.png", 11)):
        picture(shade).save(folder / place)
    picture(99).save(tmp_path / "2.png")  # outside of the set, and in the working directory
    paths = ["pictures/0.png", "../1.png", "2.png", "../../2.png", "https://example.org/3.png", str(folder / "1.png")]
    column = [{"bytes": None, "path": path} for path in paths] if kind == "struct" else paths
    parquet.write_table(pa.table({"image": column}), folder / "test" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    for data in ("set", folder):
        report = checked(data)
        assert report.pictures == 6
        faults = report.faults()
        assert len(faults) == 3
        assert "row 2 cannot be read: [Errno 2] No such file" in faults[0]
        assert "row 3 cannot be read: ../../2.png is outside of" in faults[1]
        assert "row 4 cannot be read: it is a URL, https://example.org/3.png: download it" in faults[2]
    assert shades(load("set", "test", 16)) == [10, 11, 11]


def test_other_names_of_the_picture_column(tmp_path):
    for column in ("img", "jpg"):
        parquet.write_table(pa.table({column: [encoded(4)]}), tmp_path / "TEST.PARQUET")
        (tmp_path / "TEST.PARQUET").rename(tmp_path / "test.PARQUET")
        assert shades(load(tmp_path, "test", 16)) == [4]
