"""What a name stands for: a bundled model, a model folder, a run, or a part of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vqdiff
from bundled_model import linked_copy
from vqdiff.cli import main
from vqdiff.foundation.errors import InputError
from vqdiff.model.finding import bundled, find, find_model, find_part

EMOJI = bundled()["emoji"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "log.jsonl").touch()
    (run / "last.pt").touch()
    linked_copy(EMOJI, run / "model")
    return run


@pytest.mark.parametrize("part", ["image_tokenizer", "text_encoder"])
@pytest.mark.parametrize("below", ["", "model", "model/PART"])
def test_a_part_is_found_from_every_level(run: Path, part: str, below: str) -> None:
    assert find_part(run / below.replace("PART", part), part) == run / "model" / part  # type: ignore[arg-type]
    assert find_part("emoji", part) == EMOJI / part  # type: ignore[arg-type]


def test_a_run_stands_for_its_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find(run) == find_model(run) == run / "model"
    main(["info", str(run)])
    assert "name: emoji" in capsys.readouterr().out
    assert vqdiff.load(run, device="cpu").model.fingerprint == vqdiff.load("emoji", device="cpu").model.fingerprint


def test_a_run_of_a_tokenizer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model" / "image_tokenizer").rename(run / "image_tokenizer")
    shutil.rmtree(run / "model")
    assert find(run) == find_part(run, "image_tokenizer") == run / "image_tokenizer"
    main(["info", str(run)])
    assert "kind: image tokenizer" in capsys.readouterr().out


def test_a_run_without_a_model_yet(run: Path) -> None:
    shutil.rmtree(run / "model")
    with pytest.raises(InputError, match=r"mine is a run that has not made a model yet: continue it with --resume"):
        find(run)


def test_what_has_no_such_part(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text_encoder has no image tokenizer: name .* \(emoji"):
        find_part(EMOJI / "text_encoder", "image_tokenizer")
    with pytest.raises(InputError, match=r"image_tokenizer has no text encoder: name the folder of one"):
        find_part(EMOJI / "image_tokenizer", "text_encoder")
    with pytest.raises(InputError, match="has no image tokenizer"):
        find_part(tmp_path, "image_tokenizer")
    with pytest.raises(InputError, match="is not a model folder: name one"):
        find_model(EMOJI / "image_tokenizer")
    with pytest.raises(InputError, match=r"no model 'emojy'.*did you mean 'emoji'"):
        find_part("emojy", "image_tokenizer")
