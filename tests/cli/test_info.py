"""``vqdiff info`` on everything that can be loaded; it reads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from full_size import large_folder, memory_of
from golden_cases import GOLDEN
from vqdiff.cli import main
from vqdiff.foundation.processor import processor
from vqdiff.model.devices import auto_precision, pick_device
from vqdiff.pipeline import Pipeline
from vqdiff.recipes.emoji.packages import STYLES


def info(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    main(["info", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    record = info(capsys)
    assert (record["kind"], record["null"], record["condition"][:4]) == ("model folder", "learnable", "text")
    assert record["parameters"]["denoiser"] > 1e6
    assert len(record["hash"]) == 12
    assert record["licenses"]
    assert record["processor"] == str(processor())
    assert record["auto"].startswith(f"{auto_precision(pick_device('auto'))} on ")


@pytest.mark.parametrize(
    ("file", "condition", "null", "codec"),
    [
        ("text_learnable_null", "text, 77 × 64 features of CLIPTextModel", "learnable", "VQGAN, 16 × 16 pixels"),
        ("text_base", "text, 77 × 64 features of CLIPTextModel", "empty", "missing: load the model with"),
        ("class_1001", "labels 0 to 999", "learned class", "missing: load the model with code_map="),
        ("unconditional", "none", None, "missing: load the model with"),
    ],
)
def test_checkpoints(file: str, condition: str, null: str, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = info(capsys, GOLDEN / "checkpoints" / f"{file}.pth")
    assert (record["kind"], record["condition"], record["null"]) == ("checkpoint", condition, null)
    assert record["image_tokenizer"].startswith(codec)
    assert record["origin"]["denoiser"] == f"{file}.pth: ema"
    assert record["schedule"] == {"alpha_bar": [0.99999, 9e-6], "gamma_bar": [9e-6, 0.99999]}


def test_a_codec_in_another_file(capsys: pytest.CaptureFixture[str]) -> None:
    codec = GOLDEN / "codecs" / "openimages_like_gumbel.pth"
    record = info(capsys, GOLDEN / "checkpoints" / "text_base.pth", "--image-tokenizer", codec)
    assert record["image_tokenizer"] == "VQGAN, 16 × 16 pixels ↔ 8 × 8 tokens, 22 codes that stand for 50"
    assert record["origin"]["image_tokenizer"] == "openimages_like_gumbel.pth"


def test_a_codec_alone(capsys: pytest.CaptureFixture[str]) -> None:
    record = info(capsys, GOLDEN / "codecs" / "ffhq_like_vqgan.pth")
    assert record["kind"] == "image tokenizer"
    assert record["image_tokenizer"].endswith("30 codes")


def test_a_diffusers_folder(capsys: pytest.CaptureFixture[str]) -> None:
    record = info(capsys, GOLDEN / "diffusers" / "pipeline")
    assert (record["kind"], record["null"], record["tokens"], record["codes"]) == (
        "diffusers folder",
        "learnable",
        36,
        18,
    )
    assert record["origin"]["denoiser"] == "transformer/diffusion_pytorch_model.safetensors"


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(GOLDEN / "checkpoints" / "text_learnable_null.pth")])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["denoiser"] == "ClassicDenoiser, 2 layers, width 16, 2 heads"
    assert "attn2.mask" in lines["notes"]
    assert "hash" not in lines  # there is none of a file of theirs
    main(["info", "emoji"])
    assert "masked_nll: 1.52 to 2.96 nats per token, few to all masked; for the " in capsys.readouterr().out


def test_a_folder_of_full_size_is_not_read(tmp_path: Path) -> None:
    folder, parameters = large_folder(tmp_path / "large")
    record, memory = memory_of(f"from vqdiff.cli import main\nmain(['info', {str(folder)!r}, '--json'])")
    assert json.loads(record)["parameters"]["denoiser"] == parameters > 1.29e9
    assert memory < 1.5e9  # its weights are 5.4e9


def test_credits_name_every_source(capsys: pytest.CaptureFixture[str], pipe: Pipeline) -> None:
    main(["info", "--credits"])
    printed = capsys.readouterr().out
    for style in STYLES:
        assert style.name in printed
        assert style.attribution in printed
        assert style.url in printed
    for license in pipe.model.card.licenses.values():
        assert license.partition(" ")[0].rstrip(",") in printed


def test_credits_of_a_model_of_ones_own(capsys: pytest.CaptureFixture[str], pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save(tmp_path / "model")
    main(["info", str(tmp_path / "model"), "--credits"])
    assert "twemoji: CC-BY-4.0 (Twitter and contributors)\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["info", str(GOLDEN / "checkpoints" / "unconditional.pth"), "--credits"])
    assert capsys.readouterr().err.endswith("names no licence: ask its authors\n")
    with pytest.raises(SystemExit):
        main(["info", "--credits", "--json"])
    assert capsys.readouterr().err == "vqdiff: error: --credits prints text: leave out --json\n"
