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


def test_own_pictures_with_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/data.md, with their configurations, for a few steps of smaller networks."""
    monkeypatch.chdir(tmp_path)
    train = Path("my-pictures/train")
    shutil.copytree(ROOT / "tests/fixtures/emoji-sample", "sample")
    main(["data", "check", "sample", "--no-time"])
    for split in ("train", "test_style"):
        pictures = load("sample", split, 128)
        train = Path("my-pictures", split.split("_")[0])
        train.mkdir(parents=True)
        for number, (pixels, captions) in enumerate(zip(pictures.pixels, pictures.captions, strict=True)):
            Image.fromarray(pixels).save(train / f"{number}.png")
            (train / f"{number}.txt").write_text("\n".join(captions))
    (train / "0.txt").write_text("a caption of more words than there is room for " * 9)

    steps = ["--set", "run.steps=4", "--set", "run.batch_size=4", "--set", "evaluate=4"]
    small = ["model.channels=[8, 16, 16]", "model.encoder_blocks=[0, 0, 0]", "model.decoder_blocks=[0, 0, 0]"]
    main(["train", "tokenizer", str(ROOT / "configs/own/tokenizer.toml"), *steps, *_set(*small, "perceptual.weight=0")])
    main(["data", "tokens", "my-pictures", "--model", "runs/own-tokenizer/image_tokenizer", "-o", "my-tokens"])
    small = ["model.width=64", "model.heads=2", "model.depth=1", "compile=false", "sampling.steps=2"]
    own = ["train", "diffusion", str(ROOT / "configs/own/diffusion.toml"), *steps, *_set(*small)]
    main(own)
    main(["generate", "a red apple", "--model", "runs/own-diffusion/model", "-o", "apple.png"])
    assert Image.open("apple.png").size == (128, 128)

    further = ["runs/further", "runs/own-diffusion/model"]  # on the same tokens, which the saved model made too
    text = 'data = "my-tokens"\noutput = "{}"\nstart = "{}"\n'.format(*further)
    Path("further.toml").write_text(text, encoding="utf-8")
    main(["train", "diffusion", "further.toml", *steps, *_set("run.learning_rate=1e-4", "compile=false")])


def _set(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _log(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
