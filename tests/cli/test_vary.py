"""``vqdiff vary`` and ``vqdiff revise`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from commands import run
from toy_pipelines import toy_pipeline


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGBA", (40, 30), (200, 30, 30, 128)).save("picture.png")
    return tmp_path


def test_vary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["vary", "picture.png", "--steps", "2", "--json"]
    assert run(*common, "a cat", "--towards", "a dog", "--weight", "0.3", "-n", "3", "-o", "three.png") == 0
    record = json.loads(capsys.readouterr().out)
    blend = {"first": "a cat", "second": "a dog", "weight": 0.3}
    asked = {"prompt": blend, "strength": 0.5, "num_images": 3}
    assert asked.items() <= record.items()
    assert run(*common, "a cat", "--towards", "a dog", "--weight", "0.3", "--seed", "2", "-o", "third.png") == 0
    with Image.open("three.png") as three, Image.open("third.png") as third:
        assert third.size == (40, 30)
        assert three.crop((92, 4, 132, 34)).tobytes() == third.tobytes()


def test_revise(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("revise", "picture.png", "--share", "0.5", "--steps", "1") == 0
    assert capsys.readouterr().out.strip() == "out.png: no prompt, seed 0"
    with Image.open("out.png") as out:
        assert out.size == (40, 30)
        assert {"kind": "revise", "share": 0.5}.items() <= json.loads(out.text["vqdiff"]).items()


def test_revise_with_replace_noise(folder: Path) -> None:
    toy_pipeline("unconditional").save("toy")
    for options, sampler in (([], "token-fixing"), (["--sampler", "purity"], "purity")):
        assert run("revise", "picture.png", "--model", "toy", *options) == 0
        with Image.open("out.png") as out:
            assert json.loads(out.text["vqdiff"])["sampler"] == sampler
        assert run("redraw", "out.png", "--image", "picture.png", "--model", "toy") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vary", "nope.png"], "cannot read the image nope.png: No such file"),
        (["vary", "picture.png", "--strength", "1.5"], "strength is 1.5"),
        (["vary", "picture.png", "--strength", "nan"], "strength is nan"),
        (["vary", "picture.png", "-n", "0"], "--num-images is 0"),
        (["vary", "picture.png", "--model", "emojy"], "did you mean 'emoji'"),
        (["revise", "picture.png", "--share", "-1"], "share is -1"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(folder.iterdir())
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert set(folder.iterdir()) == before
