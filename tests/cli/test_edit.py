"""``vqdiff edit`` and ``vqdiff expand`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save("picture.png")
    mask = Image.new("L", (90, 60))
    mask.paste(255, (10, 10, 40, 50))
    mask.save("mask.png")
    Image.new("L", (9, 9)).save("small.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "picture.png").read_bytes()[:60])
    return tmp_path


def test_edit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "2", "--seed", "5", "--guidance", "4", "--guidance-schedule", "cosine", "--negative", "red"]
    assert run("edit", "picture.png", "mask.png", "a green apple", "-o", "out.png", "--json", *options) == 0
    record = json.loads(capsys.readouterr().out)
    with Image.open("out.png") as out, Image.open("picture.png") as picture, Image.open("mask.png") as mask:
        stored = json.loads(out.text["vqdiff"])  # type: ignore[attr-defined]
        drawn, before, white = np.asarray(out), np.asarray(picture), np.asarray(mask) > 0
    assert stored | {"output": "out.png"} == record
    assert {"kind": "edit", "prompt": "a green apple", "seed": 5, "steps": 2}.items() <= stored.items()
    assert {name: one["file"] for name, one in stored["inputs"].items()} == {"image": "picture.png", "mask": "mask.png"}
    assert len({one["hash"] for one in stored["inputs"].values()}) == 2
    guidance = {"guidance": 4.0, "guidance_schedule": "cosine", "guidance_interval": [0.0, 1.0]}
    assert guidance.items() <= stored.items()
    assert stored["negative"] == "red"
    assert (drawn[~white] == before[~white]).all()
    assert (drawn[white] != before[white]).any()


def test_expand_without_a_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("expand", "picture.png", "--left", "30", "--bottom", "5", "--steps", "1", "-o", "wide.png") == 0
    assert capsys.readouterr().out.strip() == "wide.png: no prompt, seed 0"
    with Image.open("wide.png") as out, Image.open("picture.png") as picture:
        assert out.size == (120, 65)
        assert out.crop((30, 0, 120, 60)).tobytes() == picture.tobytes()


def test_several_edits_are_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edit", "picture.png", "mask.png", "a cat", "-n", "2", "--steps", "1", "-o", "two.png") == 0
    assert capsys.readouterr().out == "two.png: 2 images of 'a cat', seeds 0 to 1\n"
    assert run("edit", "picture.png", "mask.png", "a cat", "--seed", "1", "--steps", "1", "-o", "second.png") == 0
    with Image.open("two.png") as two, Image.open("second.png") as second:
        assert two.crop((98, 4, 188, 64)).tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", "nope.png", "mask.png", "cat"], "cannot read the image nope.png: No such file"),
        (["edit", "picture.png", "broken.png", "cat"], "cannot read the image broken.png"),
        (["edit", "picture.png", "small.png", "cat"], "the mask is 9×9 pixels, the image 90×60"),
        (["edit", "picture.png", "mask.png", ""], "the prompt is empty"),
        (["edit", "picture.png", "mask.png", "cat", "--feather", "-3"], "feather is -3"),
        (["edit", "picture.png", "mask.png", "cat", "--guidance", "1", "--negative", "dog"], "guidance, which is off"),
        (["edit", "picture.png", "mask.png", "cat", "--guidance-schedule", "steep"], "steep"),
        (["edit", "picture.png", "mask.png", "cat", "--guidance-interval", "0.9", "0.1"], "two rising numbers"),
        (["edit", "picture.png", "mask.png", "--towards", "dog"], "--towards needs a prompt"),
        (["edit", "picture.png", "mask.png", "cat", "--towards", "dog", "--weight", "2"], "weight between two prompts"),
        (["edit", "picture.png"], "mask"),
        (["edit", "picture.png", "mask.png", "cat", "-o", "/nowhere/out.png"], "/nowhere/out.png"),
        (["expand", "picture.png", "cat"], "nothing to add"),
        (["expand", "picture.png", "cat", "--top", "-1"], "top is -1"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(folder.iterdir())
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message.lower() in error.lower()
    assert len(error.splitlines()) == 1
    assert set(folder.iterdir()) == before
