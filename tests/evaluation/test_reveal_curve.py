"""The measurement for the reveal curve measured: against closed forms, by the command, of the bundled model."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vqdiff
from bundled_model import bundled_pipeline
from toy_pipelines import toy_pipeline
from vqdiff.cli import main
from vqdiff.data import ImageSet
from vqdiff.diffusion import Schedule
from vqdiff.evaluation.reveal_curve import losses, measure_masked_nll, rising
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.formats import read_record
from vqdiff.image_tokenizers import AbsentConfig, AbsentTokenizer
from vqdiff.model import Model

CODES = 5


class Counting(nn.Module):
    """Code 0 has the odds 1 / n, where n tokens are masked: a cross-entropy of log(1 + (K − 1) n) if all are 0."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))

    def prepare(self, condition: Tensor | None) -> None:
        return None

    def features(self, tokens: Tensor, t: Tensor, condition: None) -> Tensor:
        masked = (tokens == CODES).sum(1).float()
        odds = -masked.log()[:, None, None].expand(*tokens.shape, 1)
        return torch.cat([odds, torch.zeros(*tokens.shape, CODES - 1)], -1)

    def logits(self, features: Tensor) -> Tensor:
        return features


class Zeros(AbsentTokenizer):
    def encode(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), self.grid_size**2, dtype=torch.int64)


def images(count: int) -> ImageSet:
    pixels, weights = np.zeros((count, 8, 8, 3), np.uint8), np.full(count, 1 / count)
    return ImageSet(pixels=pixels, captions=[[]] * count, columns={}, weights=weights)


@pytest.mark.parametrize("side", [4, 8])
def test_a_known_cross_entropy_is_measured(side: int) -> None:
    tokenizer = Zeros(AbsentConfig(side, CODES, ""))
    model = Model(Schedule.paper(20, CODES), Counting(), tokenizer)
    masked = [max(1, round(side**2 * share / 32)) for share in range(33)]
    expected = [log(1 + (CODES - 1) * n) for n in masked]
    assert measure_masked_nll(model, images(11), 10) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="12 images are to be measured, and there are 11"):
        measure_masked_nll(model, images(11), 12)
    model.schedule = Schedule.linear(20, CODES, gamma_bar=(0.0, 0.0))
    with pytest.raises(InputError, match="this model's schedule has no masks"):
        measure_masked_nll(model, images(11), 10)


def test_what_falls_by_chance_is_made_rising() -> None:
    assert rising([1.0, 3.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]) == [1, 2.5, 2.5, 4]
    assert rising([1.0, 3.0, 2.0, 4.0], [1.0, 3.0, 1.0, 1.0]) == [1, 2.75, 2.75, 4]
    assert rising([4.0, 3.0, 2.0, 9.0], [1.0, 1.0, 2.0, 1.0]) == [2.75, 2.75, 2.75, 9]
    assert rising([2.0, 2.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0]) == [2, 2, 2, 2]


def test_the_command_makes_a_model_that_has_the_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for label in range(5):
        (tmp_path / "data" / f"{label}").mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / f"{label}" / f"{number}.png")
    pipe = toy_pipeline()
    pipe.model.masked_nll = ()
    pipe.save(tmp_path / "plain")
    (tmp_path / "plain" / "CREDITS.md").write_text("everyone")
    plain, data, made = str(tmp_path / "plain"), str(tmp_path / "data"), tmp_path / "made"
    words = ["generate", "--label", "1", "--curve", "measured", "--device", "cpu", "--steps", "6"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--model", plain, "-o", str(tmp_path / "no.png")])
    assert "this model has no measurement: vqdiff measure-curve makes a copy" in capsys.readouterr().err

    options = ["--split", "train", "--validation", "0.3", "--device", "cpu"]
    main(["measure-curve", plain, data, "-o", str(made), "--images", "6", *options])
    says = capsys.readouterr().out
    assert f"{made}: written; " in says
    assert "nats lost in 4 steps: linear " in says
    measured = json.loads((made / "model_index.json").read_text()).pop("masked_nll")
    assert len(measured) == 33
    assert measured == sorted(measured)
    assert (made / "CREDITS.md").read_text() == "everyone"
    for file in ("denoiser/model.safetensors", "image_tokenizer/model.safetensors"):
        assert (made / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()

    for precision in get_args(Precision):
        assert vqdiff.load(made, device="cpu", precision=precision).model.masked_nll == tuple(measured)

    image = tmp_path / "one.png"
    main([*words, "--model", str(made), "-o", str(image)])
    main(["redraw", str(image), "--model", str(made)])
    assert "the same, bit for bit" in capsys.readouterr().out
    assert len(read_record(image)["curve_hash"]) == 12
    main(["measure-curve", str(made), data, "-o", str(made), "--images", "2", *options])  # in its place
    assert json.loads((made / "model_index.json").read_text())["masked_nll"] != measured
    capsys.readouterr()
    for more, says in (
        ([plain, str(tmp_path / "nowhere"), "-o", "out"], "no folder"),
        (["nothing", data, "-o", "out"], "no model 'nothing'"),
        (
            [str(tmp_path / "plain" / "image_tokenizer"), data, "-o", "out"],
            "is a tokenizer folder: make a model folder",
        ),
        ([plain, data, "-o", "out", "--images", "0"], "--images is 0"),
        ([plain, data, "-o", str(image)], "one.png"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["measure-curve", *more])
        assert says in capsys.readouterr().err


def test_by_its_own_table_the_bundled_model_loses_the_least() -> None:
    model = bundled_pipeline().model
    assert len(model.masked_nll) == 33
    for steps in (2, 4, 8, 16, 32, 64, 128, 256):
        lost = losses(model.masked_nll, model.num_tokens, steps)
        assert all(-1e-6 <= lost["measured"] <= one + 1e-6 for one in lost.values())
    assert losses(model.masked_nll, model.num_tokens, 16)["measured"] < 0.98 * lost_by_the_best_other(model, 16)


def lost_by_the_best_other(model: Model, steps: int) -> float:
    return min(value for name, value in losses(model.masked_nll, model.num_tokens, steps).items() if name != "measured")
