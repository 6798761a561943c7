"""``vqdiff data`` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picture_sets import numbered, with_metadata
from vqdiff.cli import main
from vqdiff.data import TokenSet
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import load_component, save_component
from vqdiff.model.devices import auto_precision, pick_device


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["data", *arguments])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


# check


def test_check_counts_and_shows(tmp_path, capsys):
    folder = with_metadata(tmp_path / "set", numbered(9))
    main(["data", "check", str(folder), "--image-size", "16"])
    out = capsys.readouterr().out
    assert not (folder / "tokens").exists()
    assert "train: 9 images\n  sizes: 16 × 16 to 16 × 16, median 16 × 16; 0 (0%) below 16\n" in out
    where = pick_device("auto")
    assert f"training with the recipe own-100 on {where}, in {auto_precision(where)}:\n" in out
    assert re.search(r"\n  about .* in all: .* to prepare, .* to train, ", out)
    commands = [line.strip() for line in out.splitlines() if line.startswith("  vqdiff ")]
    assert commands == [
        "vqdiff train diffusion --template own-100 > my-100.toml",
        f"vqdiff train diffusion my-100.toml --set data={folder}",
        "vqdiff generate 'number 0' --model runs/mine",
    ]
    assert f"contact sheet: {folder / '.cache' / 'contact-sheet.png'}" in out
    with Image.open(folder / ".cache" / "contact-sheet.png") as sheet:
        assert sheet.size == (8 * 100 + 4, 2 * 100 + 4)
    main(["data", "check", str(folder), "--no-time", "-o", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").exists()
    assert "training on" not in capsys.readouterr().out


def test_check_names_the_faults_and_exits_with_2(tmp_path, capsys):
    folder = with_metadata(tmp_path / "set", [*numbered(3), {"file_name": "bare.png"}])
    (folder / "01.png").write_bytes(b"broken")
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(folder), "--no-time"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert "train: 01.png cannot be read: it is not an image in a known format\ntrain: bare.png has no caption\n" in out
    assert err == f"vqdiff: error: 2 faults in {folder}, listed above: fix or remove them\n"


def test_check_of_what_cannot_be_opened(tmp_path, capsys):
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    assert "cannot read the parquet files" in fails(["check", str(tmp_path)], capsys)
    assert "no folder" in fails(["check", str(tmp_path / "missing")], capsys)
    assert "--image-size is 0" in fails(["check", str(tmp_path), "--image-size", "0"], capsys)
    with_metadata(tmp_path / "set", numbered(1))
    assert "cannot write" in fails(["check", str(tmp_path / "set"), "-o", str(tmp_path / "no" / "sheet.png")], capsys)
    for name in ("sheet", "sheet.xyz", "sheet.jpg"):
        assert "end its name in .png" in fails(["check", str(tmp_path / "set"), "-o", str(tmp_path / name)], capsys)


# tokens


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    network = CompactTokenizer(CompactConfig(16, (8, 8), (0, 0), (0, 0), num_codes=64, code_dim=4))
    save_component(network, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_tokens_of_a_folder(tmp_path, tokenizer, capsys):
    folder = with_metadata(tmp_path / "set", [row | {"label": "ab"[n % 2]} for n, row in enumerate(numbered(20))])
    main(["data", "tokens", str(folder), "--model", str(tokenizer), "-o", str(tmp_path / "tokens"), "--flip"])
    out = tmp_path / "tokens"
    assert capsys.readouterr().out.splitlines() == [
        f"{out / 'train'}: 19 images, 2 views of 16 tokens, 0.0 MB",
        f"{out / 'test'}: 1 images, 2 views of 16 tokens, 0.0 MB",
    ]
    train, test = TokenSet.load(out, "train"), TokenSet.load(out, "test", ("a", "b"))
    train.check_tokenizer(load_component(tokenizer))
    assert sorted(texts[0] for texts in [*train.captions, *test.captions]) == sorted(f"number {n}" for n in range(20))
    assert train.class_names == test.class_names == ("a", "b")


def test_tokens_of_the_bundled_model(tmp_path):
    folder = with_metadata(tmp_path / "set", numbered(2))
    main(["data", "tokens", str(folder), "--model", "emoji", "-o", str(tmp_path / "tokens")])
    tokens = TokenSet.load(tmp_path / "tokens", "train").tokens
    assert tokens.shape == (1, 1, 256)
    assert len(np.unique(tokens)) < 20  # of one plain colour


def test_mistakes_about_tokens_are_one_line(tmp_path, tokenizer, capsys):
    folder = with_metadata(tmp_path / "set", numbered(2))
    made = ["tokens", str(folder), "--model", str(tokenizer), "-o", str(tmp_path / "tokens")]
    main(["data", *made])
    assert "was made with another flip" in fails([*made, "--flip"], capsys)
    assert "crops is 0" in fails([*made, "--crops", "0"], capsys)
    assert "--batch-size is 0" in fails([*made, "--batch-size", "0"], capsys)
    assert "no model 'emojy'" in fails(["tokens", str(folder), "--model", "emojy", "-o", str(tmp_path / "t")], capsys)
    config = json.loads((tokenizer / "config.json").read_text()) | {"class": "ModernDenoiser"}
    (tokenizer / "config.json").write_text(json.dumps(config))
    assert str(tokenizer / "config.json") in fails(made, capsys)


# emoji


def test_emoji_does_not_overwrite(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists already" in fails(["emoji", "-o", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--views", "-1"], "--views is -1: give a number of images"),
        (["--views", "10", "--only-drawings"], "exclude each other"),
    ],
)
def test_emoji_views_are_counted(options, says, tmp_path, capsys):
    assert says in fails(["emoji", "-o", str(tmp_path / "new"), *options], capsys)
    assert not list(tmp_path.iterdir())


def test_emoji_needs_an_output(capsys):
    assert "--output" in fails(["emoji"], capsys)
