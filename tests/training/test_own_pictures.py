"""From a folder of pictures that are no emoji to a drawing, by the commands of docs/training.md in a short form."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqdiff.cli import main
from vqdiff.data import load
from vqdiff.evaluation.evaluate import Evaluation
from vqdiff.evaluation.scorer_training import ScorerTraining
from vqdiff.evaluation.study import Study
from vqdiff.foundation.config import read_config
from vqdiff.recipes.training import names, path_of, recommended
from vqdiff.training.denoiser_settings import DiffusionTraining, GuidanceTraining
from vqdiff.training.tokenizer import TokenizerTraining

ROOT = Path(__file__).parents[2]


def test_handwritten_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    write_digits: Any = runpy.run_path(str(ROOT / "examples" / "digits.py"))["write_digits"]
    write_digits(Path("runs/digits/pictures"))
    main(["data", "check", "runs/digits/pictures", "--no-time"])

    short = ["--set", "run.log_every=10", "--set", "run.warmup=10", "--set", "run.ema=0.9"]
    main(["train", "tokenizer", str(ROOT / "configs/digits/tokenizer.toml"), *short, "--set", "run.steps=140"])
    one = [
        *short,
        "--set",
        "run.steps=50",
        "--set",
        "run.batch_size=32",
        "--set",
        "compile=false",
        "--set",
        "sampling.steps=2",
        "--set",
        'prompts=["seven"]',
    ]
    main(["train", "diffusion", str(ROOT / "configs/digits/diffusion.toml"), *one])
    tokenizer, denoiser = (_log(Path("runs/digits", stage, "log.jsonl")) for stage in ("tokenizer", "diffusion"))
    assert tokenizer[-1]["psnr"] > 20
    assert denoiser[-2]["loss"] < 0.8 * denoiser[0]["loss"]
    assert denoiser[-1]["held_out_masked_nll"] < 4.2  # knowing nothing is ln 128 = 4.85

    model = ["--model", "runs/digits/diffusion/model", "--steps", "2"]
    main(["generate", "a handwritten seven", *model, "-o", "seven.png"])
    assert Image.open("seven.png").size == (32, 32)


def write_pictures(folder: Path, most: int) -> None:
    """Emoji with the captions beside them, in the folder's splits train and test."""
    shutil.copytree(ROOT / "tests/fixtures/emoji-sample", "sample")
    for split in ("train", "test_style"):
        pictures = load("sample", split, 128)
        part = folder / split.split("_")[0]
        part.mkdir(parents=True)
        for number, (pixels, captions) in enumerate(zip(pictures.pixels[:most], pictures.captions, strict=False)):
            Image.fromarray(pixels).save(part / f"{number}.png")
            (part / f"{number}.txt").write_text("\n".join(captions))


def print_template(stage: str, name: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``vqdiff train STAGE --template NAME > FILE``."""
    capsys.readouterr()
    main(["train", stage, "--template", name])
    Path(file).write_text(capsys.readouterr().out, encoding="utf-8")


def test_the_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of docs/training.md, for a few steps, with the bundled tokenizer."""
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("my-pictures"), most=12)
    print_template("diffusion", "own-100", "my-100.toml", capsys)
    short = ["run.steps=3", "run.batch_size=4", "run.validate_every=1", "run.patience=1", "sampling.steps=2"]
    main(["train", "diffusion", "my-100.toml", *_set("data=my-pictures", *short, 'prompts=["a cat"]', "evaluate=4")])
    out = capsys.readouterr().out
    assert " in all: " in out
    assert "kl: error of one denoising step" in out
    assert "of the codes" not in out
    assert {"model", "curve.png", "preview-0000003.png"} <= {path.name for path in Path("runs/mine").iterdir()}
    main(["info", "runs/mine"])
    assert "name: mine" in capsys.readouterr().out
    main(["generate", "a red apple", "--model", "runs/mine", "-o", "apple.png"])
    assert Image.open("apple.png").size == (128, 128)


@pytest.mark.parametrize(
    ("stage", "cls"),
    [
        ("tokenizer", TokenizerTraining),
        ("diffusion", DiffusionTraining),
        ("guidance", GuidanceTraining),
        ("scorer", ScorerTraining),
        ("evaluation", Evaluation),
        ("study", Study),
    ],
    ids=["tokenizer", "diffusion", "guidance", "scorer", "evaluation", "study"],
)
def test_every_template_is_a_configuration(stage: Any, cls: type, capsys: pytest.CaptureFixture[str]) -> None:
    command = {"evaluation": ["evaluate"], "study": ["study"]}.get(stage, ["train", stage])
    main([*command, "--template", "own"])
    assert capsys.readouterr().out == path_of(stage, "own").read_text("utf-8")
    for name in names(stage):
        read_config(cls, path_of(stage, name))
        assert path_of(stage, name).read_bytes().isascii()  # a redirected stdout of Windows is not UTF-8
    for arguments in (["--template", "owm"], ["--template"], []):
        with pytest.raises(SystemExit) as stop:
            main([*command, *arguments])
        assert stop.value.code == 2
        assert "own" in capsys.readouterr().err or arguments == ["--template"]


@pytest.mark.parametrize(
    ("images", "name"), [(7, "own-100"), (300, "own-100"), (400, "own-1000"), (5000, "own-10000"), (10**6, "own-10000")]
)
def test_the_recommended_recipe(images: int, name: str) -> None:
    assert recommended(images) == name


def test_own_pictures_with_their_own_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long way of docs/training.md, for a few steps of smaller networks."""
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("my-pictures"), most=1000)
    main(["data", "check", "sample", "--no-time"])
    Path("my-pictures/test/0.txt").write_text("a caption of more words than there is room for " * 9, encoding="utf-8")
    print_template("tokenizer", "own", "tokenizer.toml", capsys)
    print_template("diffusion", "own-tokenizer", "diffusion.toml", capsys)

    steps = ["--set", "run.steps=4", "--set", "run.batch_size=4", "--set", "evaluate=4"]
    small = ["model.channels=[8, 16, 16]", "model.encoder_blocks=[0, 0, 0]", "model.decoder_blocks=[0, 0, 0]"]
    main(["train", "tokenizer", "tokenizer.toml", *steps, *_set(*small, "perceptual.weight=0")])
    main(["data", "tokens", "my-pictures", "--model", "runs/own-tokenizer", "-o", "my-tokens"])
    small = ["model.width=64", "model.heads=2", "model.depth=1", "compile=false", "sampling.steps=2"]
    own = ["train", "diffusion", "diffusion.toml", *steps, *_set(*small)]
    main(own)
    main(["generate", "a red apple", "--model", "runs/own-diffusion", "-o", "apple.png"])
    assert Image.open("apple.png").size == (128, 128)

    further = ["runs/further", "runs/own-diffusion"]  # on the same tokens, which the saved model made too
    text = 'data = "my-tokens"\noutput = "{}"\nstart = "{}"\n'.format(*further)
    Path("further.toml").write_text(text, encoding="utf-8")
    main(["train", "diffusion", "further.toml", *steps, *_set("run.learning_rate=1e-4", "compile=false")])


def _set(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _log(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
