"""``vqdiff generate`` with other projects' models: labels, nothing, published recipes, a codec in another file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from golden_cases import GOLDEN
from vqdiff.cli import main

CHECKPOINTS, CODECS = GOLDEN / "checkpoints", GOLDEN / "codecs"
PIPELINE = ["--model", str(GOLDEN / "diffusers" / "pipeline")]
UNCONDITIONAL = [
    "--model",
    str(CHECKPOINTS / "unconditional.pth"),
    "--image-tokenizer",
    str(CODECS / "ffhq_like_vqgan.pth"),
]
FEW = ["--steps", "2", "--sampler", "purity", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models") / "classes"
    main(
        ["convert", str(CHECKPOINTS / "class_1001.pth"), "--code-map", str(CODECS / "vq_mapping.pt"), "-o", str(folder)]
    )
    return ["--model", str(folder)]


def test_labels(classes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "--label", "207", "--label", "0", *classes, *FEW, "-n", "2", "-o", str(tmp_path / "a.png")])
    record = json.loads(capsys.readouterr().out)
    assert record["prompts"] == [207, 0]
    assert record["guidance"] == 1.5  # the recipe of a model with a learned null class
    assert Image.open(tmp_path / "a.png").size == (44, 44)  # 2 × 2 pictures of 16 pixels, 4 between and around
    main(["generate", "207", *classes, *FEW, "-o", str(tmp_path / "b.png")])  # a label may also stand as a prompt
    main(["generate", "--label", "207", *classes, *FEW, "-o", str(tmp_path / "c.png")])
    assert Image.open(tmp_path / "b.png").tobytes() == Image.open(tmp_path / "c.png").tobytes()


def test_labels_by_name(classes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "named"
    shutil.copytree(classes[1], folder)
    index = json.loads((folder / "model_index.json").read_text())
    names = [f"class {number}" for number in range(207)] + ["boat"] + [f"class {number}" for number in range(208, 1000)]
    (folder / "model_index.json").write_text(json.dumps(index | {"class_names": names}))
    named = ["--model", str(folder)]
    for name, label in ("a", ["boat"]), ("b", ["--label", "Boat"]), ("c", ["--label", "207"]):
        main(["generate", *label, *named, *FEW, "-o", str(tmp_path / f"{name}.png")])
    a, b, c = (Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc")
    assert a == b == c
    prompts = [json.loads(line)["prompts"] for line in capsys.readouterr().out.splitlines()]
    assert prompts == [["boat"], ["Boat"], [207]]
    with pytest.raises(SystemExit):
        main(["generate", "--label", "baot", *named, *FEW, "-o", str(tmp_path / "d.png")])
    error = capsys.readouterr().err
    assert error == "vqdiff: error: this model has no class 'baot': did you mean 'boat'?\n"
    assert not (tmp_path / "d.png").exists()
    main(["info", *named[1:], "--json"])
    assert json.loads(capsys.readouterr().out)["classes"] == names
    main(["info", *named[1:]])
    assert "classes: class 0; class 1; " in capsys.readouterr().out


def test_without_a_condition(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["generate", "--unconditional", *UNCONDITIONAL, *FEW, "--seed", "3", "-o", str(tmp_path / f"{name}.png")])
    main(["generate", *UNCONDITIONAL, *FEW, "--seed", "4", "-o", str(tmp_path / "other.png")])
    one, again, other = (Image.open(tmp_path / f"{name}.png") for name in ("a", "b", "other"))
    assert one.size == (32, 32)
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_a_diffusers_folder(tmp_path: Path) -> None:
    main(["generate", "an old red boat", *PIPELINE, *FEW, "-o", str(tmp_path / "a.png")])
    assert Image.open(tmp_path / "a.png").size == (12, 12)


def test_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*PIPELINE, "--device", "cpu", "--json", "-o", str(tmp_path / "a.png")]
    main(["generate", "a boat", "--preset", "ithq-purity", "--steps", "20", *options])
    record = json.loads(capsys.readouterr().out)
    assert (record["sampler"], record["guidance"], record["truncation"]) == ("reference-purity", 1.0, 0.86)
    assert (record["steps"], record["prior_scale"]) == (20, 1.0)
    main(["generate", "a boat", "--preset", "ithq-guided", "--steps", "3", "--guidance", "2", *options])
    record = json.loads(capsys.readouterr().out)
    assert (record["sampler"], record["guidance"], record["truncation"]) == ("ancestral", 2.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a boat", "--label", "3", *PIPELINE], "conditioned on text"),
        (["--unconditional", *PIPELINE], "conditioned on text"),
        (["--label", "3", *UNCONDITIONAL], "conditioned on nothing"),
        (["a cat", *UNCONDITIONAL], "this model is unconditional: leave out the prompt"),
        (["a boat", *PIPELINE, "--preset", "ithq-gided"], "unknown preset 'ithq-gided'"),
        (["a boat", *PIPELINE, "--image-tokenizer", "some.pth"], "complete by itself"),
        (["--unconditional", *UNCONDITIONAL[:2]], "load it with image_tokenizer="),
        (["--unconditional", *UNCONDITIONAL[:3], str(CODECS / "nothing.pth")], "there is no file"),
        (["--unconditional", *UNCONDITIONAL[:3], str(CODECS / "ithq_like_vqvae.pth")], "40 codes"),
        (["--model", str(CODECS / "ithq_like_vqvae.pth"), "a boat"], "only an image tokenizer"),
    ],
)
def test_mistakes(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", *arguments, *FEW, "-o", str(tmp_path / "a.png")])
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["1000", "-1"])
def test_labels_out_of_range(
    label: str, classes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--label", label, *classes, *FEW, "-o", str(tmp_path / "a.png")])
    assert "0 to 999" in capsys.readouterr().err
