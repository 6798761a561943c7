"""``vqdiff convert`` as a user meets it: what it writes loads, draws, and says where it came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from golden_cases import GOLDEN
from vqdiff.checkpoints import read_model
from vqdiff.cli import main
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import VQGAN
from vqdiff.model import Model, load_component
from vqdiff.pipeline import load

CHECKPOINTS, CODECS, PIPELINE = GOLDEN / "checkpoints", GOLDEN / "codecs", GOLDEN / "diffusers" / "pipeline"


def convert(*arguments: str | Path) -> int:
    try:
        main(["convert", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def same_weights(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("text_learnable_null.pth", []),
        ("text_base.pth", ["--image-tokenizer", CODECS / "openimages_like_gumbel.pth"]),
        ("class_1001.pth", ["--code-map", CODECS / "vq_mapping.pt"]),
        ("unconditional.pth", ["--image-tokenizer", CODECS / "ffhq_like_vqgan.pth"]),
        ("old_schedule.pth", ["--heads", "2", "--grid-size", "4"]),
        ("class_stray_embed.pth", ["--heads", "2", "--grid-size", "4", "--null-class"]),
    ],
)
def test_checkpoints(
    source: str, options: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(CHECKPOINTS / source, "-o", tmp_path / "new", *options) == 0
    said = capsys.readouterr().out
    model = Model.load(tmp_path / "new")
    assert f"denoiser: {source}: ema" in said
    assert all(f"note: {note}" in said for note in model.card.notes)
    extras: Any = {
        key.lstrip("-").replace("-", "_"): value for key, value in zip(options[::2], options[1::2], strict=False)
    }
    extras |= {key: int(extras[key]) for key in ("heads", "grid_size") if key in extras}
    if "--null-class" in options:
        extras["null_class"] = True
    assert same_weights(read_model(CHECKPOINTS / source, extras).denoiser, model.denoiser)


def test_there_to_diffusers_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(CHECKPOINTS / "text_learnable_null.pth", "-o", tmp_path / "ours") == 0
    # The tower in that file has 60 words of its own, which diffusers' tokenizer cannot have.
    assert convert(tmp_path / "ours", "--to", "diffusers", "-o", tmp_path / "theirs") == 2
    assert "vocabulary" in capsys.readouterr().err
    assert convert(PIPELINE, "-o", tmp_path / "mine") == 0
    index = tmp_path / "mine" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"masked_nll": [0.5, 2.25]}))
    assert convert(tmp_path / "mine", "--dtype", "bfloat16", "-o", tmp_path / "half") == 0
    assert read_model(tmp_path / "half", {}).masked_nll == (0.5, 2.25)
    capsys.readouterr()
    assert convert(tmp_path / "mine", "--to", "diffusers", "-o", tmp_path / "theirs") == 0
    assert "not in the new folder: the measurement for the reveal curve measured" in capsys.readouterr().out
    one, other = read_model(PIPELINE, {}), read_model(tmp_path / "theirs", {})
    assert same_weights(one.denoiser, other.denoiser)
    assert same_weights(one.image_tokenizer, other.image_tokenizer)


def test_a_codec_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = CODECS / "gumbel_mapping.pt"
    source = CODECS / "openimages_like_gumbel.pth"
    assert convert(source, "--code-map", table, "--grid-size", "8", "-o", tmp_path / "codec") == 0
    codec = load_component(tmp_path / "codec")
    assert isinstance(codec, VQGAN)
    assert (codec.num_codes, codec.config.image_size) == (22, 16)
    model = read_model(CHECKPOINTS / "text_base.pth", {"image_tokenizer": tmp_path / "codec"})
    whole = read_model(CHECKPOINTS / "text_base.pth", {"image_tokenizer": source})
    assert same_weights(model.image_tokenizer, whole.image_tokenizer)
    with pytest.raises(InputError, match="only an image tokenizer"):
        load(source)
    assert convert(source, "--to", "diffusers", "-o", tmp_path / "never") == 2
    assert "only an image tokenizer" in capsys.readouterr().err


def test_half_precision(tmp_path: Path) -> None:
    assert convert(PIPELINE, "--dtype", "bfloat16", "-o", tmp_path / "half") == 0
    sizes = [sum(file.stat().st_size for file in (folder / "denoiser").iterdir()) for folder in (tmp_path / "half",)]
    assert sizes[0] < 3 * sum(p.numel() for p in read_model(PIPELINE, {}, shapes_only=True).denoiser.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([CHECKPOINTS / "broken" / "truncated.pth", "-o", "new"], "truncated"),
        ([CHECKPOINTS / "malicious" / "shell_zip.pth", "-o", "new"], "rejected"),
        ([CHECKPOINTS / "text_base.pth", "-o", "no/such/place"], "cannot write no/such/place"),
        ([CHECKPOINTS / "text_base.pth", "-o", "file"], "it is a file"),
        ([PIPELINE, "--heads", "2", "-o", "new"], "complete by itself"),
        ([PIPELINE, "--to", "onnx", "-o", "new"], "onnx"),
        (["emoji", "--to", "diffusers", "-o", "new"], "ModernDenoiser"),
        (
            [
                CHECKPOINTS / "class_stray_embed.pth",
                "--to",
                "diffusers",
                "--heads",
                "2",
                "--grid-size",
                "4",
                "-o",
                "new",
            ],
            "text models",
        ),
        ([CHECKPOINTS, "-o", "new"], "name the checkpoint itself"),
        ([GOLDEN / "schedule", "-o", "new"], r"model_index.json is missing"),
        (["nothing.pth", "-o", "new"], "no model 'nothing.pth'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str | Path],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert convert(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# --- Hub ids, with nothing sent anywhere ------------------------------------------------------------------------------


def test_a_hub_id_is_fetched_only_where_it_is_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    asked = list[tuple[str, str | None]]()

    def fetch(repo: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        assert "*.fp16.*" in ignore_patterns
        asked.append((repo, revision))
        return str(PIPELINE)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    main(["info", "microsoft/vq-diffusion-ithq", "--json"])
    assert json.loads(capsys.readouterr().out)["kind"] == "diffusers folder"
    assert convert("microsoft/vq-diffusion-ithq@fp16", "-o", tmp_path / "new") == 0
    assert asked == [("microsoft/vq-diffusion-ithq", None), ("microsoft/vq-diffusion-ithq", "fp16")]
    (tmp_path / "models").mkdir()
    for source in ("models/mistyped", "./models/mistyped", "checkpoints/ithq.pth", "a/b/c", "emojy", "/a/b"):
        with pytest.raises(InputError, match="no model"):
            load(source)
    assert len(asked) == 2


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fetch(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand so on")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(InputError, match=r"cannot download someone/something from the Hub.*: offline$") as error:
        load("someone/something")
    assert len(str(error.value).splitlines()) == 1
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace())
    with pytest.raises(InputError, match=r"pip install 'vqdiff\[hub\]'"):
        load("someone/something")
