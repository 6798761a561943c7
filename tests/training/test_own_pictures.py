"""From a folder of pictures that are no emoji to a drawing, by the commands of docs/training.md in a short form."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqdiff.cli import main

ROOT = Path(__file__).parents[2]


def test_handwritten_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")  # where the configuration finds the text encoder
    write_digits: Any = runpy.run_path(str(ROOT / "examples" / "digits.py"))["write_digits"]
    write_digits(Path("runs/digits/pictures"))
    main(["data", "check", "runs/digits/pictures", "--no-time"])

    short = ["--set", "run.log_every=20", "--set", "run.warmup=10"]
    main(["train", "tokenizer", str(ROOT / "configs/digits-tokenizer.toml"), *short, "--set", "run.steps=160"])
    one = [
        *short,
        "--set",
        "run.steps=60",
        "--set",
        "compile=false",
        "--set",
        "sampling.steps=2",
        "--set",
        'prompts=["seven"]',
    ]
    main(["train", "diffusion", str(ROOT / "configs/digits-diffusion.toml"), *one])
    tokenizer, denoiser = (_log(Path("runs/digits", stage, "log.jsonl")) for stage in ("tokenizer", "diffusion"))
    assert tokenizer[-1]["psnr"] > 20
    assert denoiser[-2]["loss"] < 0.8 * denoiser[0]["loss"]
    assert denoiser[-1]["held_out_masked_nll"] < 4.2  # knowing nothing is ln 128 = 4.85

    model = ["--model", "runs/digits/diffusion/model", "--steps", "2"]
    main(["generate", "a handwritten seven", *model, "-o", "seven.png"])
    assert Image.open("seven.png").size == (32, 32)


def _log(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
