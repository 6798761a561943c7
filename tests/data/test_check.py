"""What is found in a set before training."""

from __future__ import annotations

import pytest
from PIL import Image

from picture_sets import encoded, numbered, picture, tar_of, truncated_jpeg, with_metadata
from vqdiff.data.check import SplitReport, check


def checked(data) -> list[SplitReport]:
    return list(check(data, []))


@pytest.fixture
def faulty(tmp_path):
    rows = [*numbered(8), {"file_name": "blank.png", "caption": " "}, {"file_name": "bare.png"}]
    folder = with_metadata(tmp_path / "set" / "train", rows)
    (folder / "01.png").write_bytes(b"broken")
    (folder / "02.png").unlink()
    (folder / "03.png").write_bytes(truncated_jpeg())
    picture(6, (200, 100)).save(folder / "06.png")
    (folder / "07.png").write_bytes((folder / "00.png").read_bytes())
    test = with_metadata(tmp_path / "set" / "test", [{"file_name": "a.png", "caption": "number 4"}])
    (test / "a.png").write_bytes((folder / "04.png").read_bytes())
    return tmp_path / "set"


def test_every_fault_is_named(faulty):
    test, train = checked(faulty)
    assert train.faults() == [
        "train: 01.png cannot be read: it is not an image in a known format",
        "train: 02.png cannot be read: [Errno 2] No such file or directory: " + repr(str(faulty / "train" / "02.png")),
        "train: 03.png cannot be read: " + train.broken[2].split(": ")[1],
        "train: blank.png has an empty caption",
        "train: bare.png has no caption",
    ]
    assert "truncated" in train.broken[2]
    assert test.faults() == []


def test_the_summary(faulty):
    test, train = checked(faulty)
    assert list(train.summary(64)) == [
        "train: 10 images",
        "  sizes: 16 × 16 to 200 × 100, median 16 × 16; 6 (86%) below 64",
        "  captions: 8, of which 8 differ",
        "  duplicates: 2 images: 04.png (a.png of test), 07.png (00.png of train)",
    ]
    assert list(test.summary(16))[1].endswith("0 (0%) below 16")


def test_sets_without_captions_are_no_fault(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        picture(len(name)).save(tmp_path / name / "a.png")
    (report,) = checked(tmp_path)
    assert report.faults() == []
    lines = list(report.summary(16))
    assert "  captions: none; suitable for a model that needs none" in lines
    assert "  classes: 2, of 1 to 1 images" in lines


def test_captions_that_repeat_are_counted(tmp_path):
    rows = [{"file_name": f"{n}.png", "captions": ["a photo", f"photo {n}"]} for n in range(3)]
    (report,) = checked(with_metadata(tmp_path, rows))
    assert '  captions: 6, of which 4 differ; "a photo" is the caption of 3 images' in list(report.summary(16))


def test_the_contact_sheet_shows_pictures_from_everywhere(tmp_path):
    tar_of(tmp_path / "a.tar", {f"{n:03}.png": encoded(n) for n in range(200)})
    sheet = list[Image.Image]()
    list(check(tmp_path, sheet))
    shades = [image.getpixel((0, 0))[0] for image in sheet]
    assert len(set(shades)) == 48
    assert min(shades) < 30
    assert max(shades) > 170
