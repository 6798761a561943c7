"""An image knows how it was made: ``vqdiff info``, ``redraw`` and ``generate --like``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from vqdiff.cli import main
from vqdiff.foundation.formats import encode, read_record
from vqdiff.pipeline import load
from vqdiff.sampling.candidates import RANKING_CALLS


def run(*arguments: str | Path) -> int:
    try:
        main([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.svg"])
def test_a_grid_is_made_again(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--negative", "red", "--towards", "a dog", "--columns", "3", "--seed", "4", "--steps", "1"]
    assert run("generate", "a cat", "a house", "-n", "2", "-o", name, *options) == 0
    capsys.readouterr()
    assert run("redraw", name, "-o", f"again-{name}") == 0
    assert "the same" in capsys.readouterr().out
    kept, again = read_record(folder / name), read_record(folder / f"again-{name}")
    assert kept == again
    assert kept["seeds"] == [4, 5, 6, 7]
    if not name.endswith(".svg"):
        with Image.open(name) as one, Image.open(f"again-{name}") as two:
            assert one.tobytes() == two.tobytes()


def test_formats_are_mixed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--steps", "1", "-o", "a.jpg") == 0
    record = read_record(folder / "a.jpg")
    assert run("redraw", "a.jpg", "-o", "b.png") == 0
    assert "quality" not in read_record(folder / "b.png")
    with Image.open("b.png") as image:
        Path("c.webp").write_bytes(encode(image, record, "webp", quality=80))
        Path("d.png").write_bytes(encode(image, record))
        meta = PngInfo()
        meta.add_itxt("vqdiff", json.dumps(record))  # with a quality, as of a file that another program converted
        image.save("e.png", pnginfo=meta)
    capsys.readouterr()
    for name in ("b.png", "c.webp", "d.png", "e.png"):
        assert run("redraw", name) == 0, name
        assert ("the file is lossy" in capsys.readouterr().out) == (name == "c.webp")


def test_a_record_chooses_no_file_and_may_be_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--steps", "1", "--device", "cpu", "-o", "a.png") == 0
    record = read_record(folder / "a.png")
    Path("mine").mkdir()
    changes: list[dict[str, Any]] = [
        {"model": "mine"},
        {"model": None},
        {"model_hash": None},
        {"precision": 5},
        {"inputs": [1]},
    ]
    changes += [{"inputs": {"image": 5}}, {"steps": "x"}, {"threads": "many"}, {"threads": 10**6}]
    codes = []
    with Image.open("a.png") as image:
        for change in changes:
            Path("b.png").write_bytes(encode(image, record | change))
            codes.append(run("redraw", "b.png"))
    assert codes == [2, 2, 2, 2, 2, 2, 2, 0, 0]
    error = capsys.readouterr().err
    assert error.count("record is not complete") == 5
    assert "'mine'" in error.splitlines()[0]
    assert run("redraw", "a.png", "--image", "a.png") == 2
    assert capsys.readouterr().err.endswith("it was made with generate, which takes no image: leave it out\n")


def test_a_file_that_was_changed_is_not_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--steps", "1", "--precision", "float32", "-o", "a.png") == 0
    record = read_record(folder / "a.png")
    with Image.open("a.png") as image:
        image.putpixel((3, 4), (0, 0, 0))
        Path("b.png").write_bytes(encode(image, record | {"torch": "1.0"}))
        image.save("c.png")
        image.crop((0, 0, 9, 9)).save("d.jpg", exif=Image.Exif())
    capsys.readouterr()
    assert run("redraw", "b.png") == 1
    line = capsys.readouterr().out
    assert line.startswith("b.png: not the same: 1 of 16384 pixels differ, by ")
    assert "the version of torch was 1.0 and is 2" in line
    assert run("redraw", "b.png", "--json") == 1
    assert json.loads(capsys.readouterr().out)["same"] is False
    assert run("redraw", "b.png", "-q") == 1
    assert capsys.readouterr() == ("", "")
    for name in ("c.png", "d.jpg"):
        assert run("redraw", name) == 2
        assert "has no record" in capsys.readouterr().err


def test_another_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--steps", "1", "-o", "a.png") == 0
    record = read_record(folder / "a.png")
    with Image.open("a.png") as image:
        Path("b.png").write_bytes(encode(image, record | {"model_hash": "0" * 12}))
        Path("c.png").write_bytes(encode(image, record | {"model": "mine"}))
    capsys.readouterr()
    for name, says in (("b.png", "is another model"), ("c.png", "made by the model 'mine'")):
        assert run("redraw", name) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert run("redraw", "c.png", "--model", "emoji") == 0


def test_an_edit_is_made_again_from_the_same_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.linear_gradient("L").resize((90, 60)).save("picture.png")
    mask = Image.new("L", (90, 60))
    mask.paste(255, (10, 10, 40, 50))
    mask.save("mask.png")
    assert run("edit", "picture.png", "mask.png", "a cat", "--feather", "2", "--steps", "1", "-o", "a.png") == 0
    assert run("vary", "picture.png", "-n", "2", "--steps", "1", "-o", "b.png") == 0
    assert run("expand", "picture.png", "--left", "9", "--steps", "1", "-o", "c.png") == 0
    assert run("revise", "picture.png", "--share", "0.5", "--steps", "1", "-o", "d.png") == 0
    Image.open("picture.png").convert("RGB").save("copy.webp", lossless=True)  # the same pixels
    for name in ("a.png", "b.png", "c.png", "d.png"):
        more = ["--mask", "mask.png"] if name == "a.png" else []
        assert run("redraw", name, "--image", "copy.webp", *more) == 0
    capsys.readouterr()
    for arguments, says in (
        (["a.png"], "from an image that it does not contain (picture.png): give the image again"),
        (["a.png", "--image", "picture.png"], "(mask.png)"),
        (["a.png", "--image", "mask.png", "--mask", "mask.png"], "this image is not the one"),
        (["b.png", "--image", "mask.png"], "this image is not the one"),
    ):
        assert run("redraw", *arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_an_animation_says_why_it_is_not_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--steps", "2", "--gif", "a.gif", "--confidence", "b.webp") == 0
    for name, shows in (("a.gif", "denoising"), ("b.webp", "confidence")):
        assert read_record(folder / name)["shows"] == shows
        assert run("redraw", name) == 2
        assert f"it shows the {shows} of an image" in capsys.readouterr().err
    assert run("generate", "--like", "a.gif", "-o", "again.png") == 0
    with Image.open("again.png") as one, Image.open("out.png") as two:
        assert one.tobytes() == two.tobytes()


def test_info_shows_a_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "a dog", "--steps", "1", "--guidance", "3", "-o", "a.webp") == 0
    capsys.readouterr()
    assert run("info", "a.webp") == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"prompts": "a cat; a dog", "seeds": "0; 1", "guidance": "3", "model": "emoji"}.items() <= lines.items()
    assert run("info", "a.webp", "--json") == 0
    assert json.loads(capsys.readouterr().out) == read_record(folder / "a.webp")


def test_like_another_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--negative", "red", "--steps", "2", "--guidance", "3", "-o", "a.png") == 0
    assert run("generate", "--like", "a.png", "-o", "same.png") == 0
    assert Path("same.png").read_bytes() == Path("a.png").read_bytes()
    assert run("generate", "--like", "a.png", "--seed", "7", "--steps", "1", "-o", "b.png") == 0
    changed = {"seed": 7, "steps": 1, "network_calls": 1}
    assert read_record(folder / "b.png") == read_record(folder / "a.png") | changed
    assert run("generate", "a dog", "--like", "a.png", "-n", "2", "-o", "c.png") == 0
    record = read_record(folder / "c.png")
    assert (record["prompts"], record["negative"], record["seeds"]) == (["a dog"], "red", [0, 1])
    assert run("generate", "--like", "a.png", "--towards", "a dog", "-n", "3", "--columns", "2", "-o", "f.png") == 0
    assert read_record(folder / "f.png")["prompts"] == [{"first": "a cat", "second": "a dog", "weight": 0.5}]
    assert run("generate", "--like", "f.png", "--towards", "a house", "-o", "g.png") == 0
    record = read_record(folder / "g.png")
    assert (record["prompts"][0]["second"], record["columns"]) == ("a house", 2)
    capsys.readouterr()
    with Image.open("a.png") as image:
        Path("d.png").write_bytes(encode(image, read_record(folder / "a.png") | {"model_hash": "0" * 12}))
    assert run("generate", "--like", "d.png", "-o", "e.png") == 0
    assert "was made by the model emoji (000000000000)" in capsys.readouterr().err


def test_presets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record names the settings; those that are given win over the preset, and the preset over another image's."""
    own = load("emoji").model
    assert run("generate", "a cat", "--fast", "-o", "a.png") == 0
    fast, record = own.preset("fast"), read_record(folder / "a.png")
    assert {name: record[name] for name in vars(fast)} == json.loads(json.dumps(vars(fast)))
    assert run("generate", "--like", "a.png", "-o", "b.png") == 0
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    assert run("generate", "--like", "a.png", "--preset", "best", "--steps", "2", "-o", "c.png") == 0
    best = own.settings(preset="best", steps=2)
    calls = best.best_of * (2 + RANKING_CALLS)
    assert read_record(folder / "c.png") == record | json.loads(json.dumps(vars(best))) | {"network_calls": calls}
    assert run("vary", "a.png", "--fast", "--steps", "1", "-o", "d.png") == 0
    assert read_record(folder / "d.png")["steps"] == 1
    assert run("info") == 0
    assert f"presets: fast steps {fast.steps}" in capsys.readouterr().out


def test_the_best_of_candidates_is_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--best-of", "3", "--pruning", "halving", "--steps", "4", "--seed", "4"]
    assert run("generate", "a cat", *options, "-o", "a.png", "--gif", "a.gif", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["best_of"], record["ranking"], record["pruning"], record["seed"]) == (3, "likelihood", "halving", 4)
    assert record["network_calls"] == 3 + 2 + 1 + 1 + (3 + 2) * RANKING_CALLS
    assert run("redraw", "a.png") == 0
    with Image.open("a.png") as image, Image.open("a.gif") as steps:
        steps.seek(3)
        difference = ImageChops.difference(image.convert("RGB"), steps.convert("RGB"))
        assert max(high for _, high in difference.getextrema()) < 100  # but for the palette of the animation
    assert run("vary", "a.png", "--best-of", "2", "--ranking", "text") == 2
    assert capsys.readouterr().err.endswith("ranking is text, which needs a prompt: give one, or use likelihood\n")
