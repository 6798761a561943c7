"""Training a tokenizer on a few committed drawings, by every term there is."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vqdiff.data import ImageSet, load
from vqdiff.foundation.config import build, read_config
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import to_pixels
from vqdiff.image_tokenizers import VQGAN, CompactTokenizer, VQGANConfig
from vqdiff.model import load_component
from vqdiff.training.loop import RunConfig, train
from vqdiff.training.tokenizer import HeldOut, TokenizerTask, TokenizerTraining, train_tokenizer

SAMPLE = Path(__file__).parents[1] / "fixtures" / "emoji-sample"
RECIPES = Path(__file__).parents[2] / "configs"

CONFIG: dict[str, Any] = {
    "evaluate": 6,
    "model": {
        "image_size": 32,
        "channels": [8, 16, 16],
        "encoder_blocks": [0, 0, 0],
        "decoder_blocks": [0, 0, 0],
        "num_codes": 16,
        "code_dim": 4,
    },
    "perceptual": {"weight": 0.1},
    "adversarial": {"weight": 0.1, "start": 10, "ramp": 5, "channels": 8, "levels": 2},
    "run": {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "warmup": 5,
        "ema": 0.9,
        "log_every": 10,
        "preview_every": 20,
        "checkpoint_every": 8,
    },
}


def config(folder: Path, **changes: Any) -> TokenizerTraining:
    return build(TokenizerTraining, {"data": str(SAMPLE), "output": str(folder), **CONFIG, **changes}, "test")


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "run"
    train_tokenizer(config(folder))
    return folder


def test_it_learns_and_reports_how_well(trained: Path) -> None:
    first, second, held_out = records(trained)
    assert second["psnr"] > first["psnr"]
    assert {"perplexity", "perceptual", "critic", "adversarial", "adversarial_weight"} <= second.keys()
    assert {"psnr", "ssim", "rfd_effnet", "perplexity"} <= held_out.keys()
    with Image.open(trained / "preview-0000020.png") as image:
        assert image.size == (6 * 36 + 4, 2 * 36 + 4)  # six originals over their reconstructions


def test_what_is_saved_is_the_tokenizer_alone(trained: Path) -> None:
    saved = load_component(trained / "image_tokenizer")
    assert isinstance(saved, CompactTokenizer)
    assert saved.state_dict().keys() == TokenizerTask(config(trained)).model.state_dict().keys()
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(saved.encode(pixels), saved.encode(pixels))


def test_training_goes_on_from_a_trained_tokenizer(trained: Path) -> None:
    task = TokenizerTask(config(trained, start=str(trained / "image_tokenizer")))
    assert all(parameter.requires_grad for parameter in task.model.parameters())
    saved = load_component(trained / "image_tokenizer").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in task.model.state_dict().items())


class InterruptedTask(TokenizerTask):
    """Receives Ctrl-C in a step."""

    def batch(self, step: int, share: slice) -> dict[str, Tensor]:
        if step == 103:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(step, share)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Codes die and are placed again, and the critic begins, after the interruption."""
    small = {
        "perceptual": {"weight": 0.0},
        "adversarial": CONFIG["adversarial"] | {"start": 104},
        "run": CONFIG["run"] | {"steps": 106, "warmup": 1, "preview_every": 106},
        "evaluate": 2,
    }
    train_tokenizer(config(tmp_path / "whole", **small))
    broken_off = config(tmp_path / "broken", **small)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: InterruptedTask(broken_off), broken_off.run, broken_off.output, settings=broken_off)
    train_tokenizer(broken_off, resume=True)
    whole, broken = (tmp_path / name / "image_tokenizer" / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_the_published_network_trains_too(tmp_path: Path) -> None:
    sizes = {"image_size": 32, "channels": 32, "channel_mult": [1, 1], "num_blocks": 1, "attention_levels": []}
    codes = {"latent_channels": 4, "code_dim": 4, "codebook_size": 16, "num_codes": 16}
    run = CONFIG["run"] | {"steps": 2, "warmup": 1}
    train_tokenizer(config(tmp_path / "run", vqgan=sizes | codes, run=run))
    assert isinstance(load_component(tmp_path / "run" / "image_tokenizer"), VQGAN)


def test_shares_make_up_the_batch_which_is_a_function_of_the_step(tmp_path: Path) -> None:
    task = TokenizerTask(config(tmp_path))
    whole = task.batch(7, slice(0, 4))
    parts = [task.batch(7, slice(start, start + 2))["pixels"] for start in (0, 2)]
    assert torch.equal(torch.cat(parts), whole["pixels"])
    assert int(whole["step"]) == 7
    assert not torch.equal(task.batch(8, slice(0, 4))["pixels"], whole["pixels"])


def test_half_of_the_pictures_are_mirrored(tmp_path: Path) -> None:
    task, plain = (TokenizerTask(config(tmp_path, flip=flip)) for flip in (True, False))
    mirrored = 0
    for step in range(20):
        ours, theirs = (one.batch(step, slice(0, 4))["pixels"] for one in (task, plain))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other) or torch.equal(one.flip(2), other)
            mirrored += not torch.equal(one, other)
    assert 25 < mirrored < 55


class Copier(nn.Module):
    """Every pixel is a token of its own: perfect, or with its colours inverted."""

    def __init__(self, num_codes: int, inverted: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.config = VQGANConfig(16)
        self.num_codes, self.grid_size, self.inverted = num_codes, 16, inverted

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        return (tokens != self.inverted).view(-1, 3, 16, 16).float()


def black_and_white() -> ImageSet:
    pictures = load(SAMPLE, "train", 16)
    pixels = np.random.default_rng(0).integers(0, 2, (len(pictures), 16, 16, 3), dtype=np.uint8) * 255
    return ImageSet(**{**vars(pictures), "pixels": pixels})


def test_scores_know_perfect_from_poor(capsys: pytest.CaptureFixture[str]) -> None:
    held_out = HeldOut(black_and_white(), 70)
    scores = held_out.scores(Copier(2))
    assert scores["psnr"] == pytest.approx(100)
    assert scores["ssim"] == pytest.approx(1)
    assert scores["rfd_effnet"] == pytest.approx(0, abs=1e-3)
    assert scores["codes_used"] == 1
    assert scores["perplexity"] == pytest.approx(2, rel=0.01)
    poor = held_out.scores(Copier(4, inverted=True))
    assert poor["psnr"] == pytest.approx(0)
    assert poor["ssim"] < 0
    assert poor["rfd_effnet"] > 1
    assert poor["codes_used"] == 0.5


def test_few_images_cannot_tell_which_codes_are_used(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, model = TokenizerTask(config(trained)), Copier(4)  # uses two codes
    task.held_out = HeldOut(black_and_white(), 70)
    assert task.evaluate(model)["codes_used"] == 0.5
    assert "held-out images use 50% of the codes" in capsys.readouterr().out
    assert "codes_used" not in task.evaluate(Copier(4000))
    assert "of the codes" not in capsys.readouterr().out


def test_sanity_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 90)).save(tmp_path / "set" / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    small = {"image_size": 8, "channels": [8, 8], "encoder_blocks": [0, 0], "decoder_blocks": [0, 0], "num_codes": 4}
    changes = {"data": "set", "model": small | {"code_dim": 4}, "perceptual": {"weight": 0.0}, "adversarial": {}}
    train_tokenizer(config(tmp_path / "run", **changes), sanity=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_scores_are_not_taken_in_bfloat16() -> None:
    class Rounder(Copier):
        def decode(self, tokens: Tensor) -> Tensor:
            return super().decode(tokens) * 0.9

    held_out, model = HeldOut(black_and_white(), 70), Rounder(2)
    exact = held_out.scores(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert held_out.scores(model) == pytest.approx(exact)


def test_without_the_package_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)  # as if it were not installed
    held_out = HeldOut(black_and_white(), 4)
    assert "vqdiff[eval]" in capsys.readouterr().out
    assert held_out.scores(Copier(2)).keys() == {"psnr", "ssim", "codes_used", "perplexity"}


def test_a_sharded_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.shard"):
        config(tmp_path, run=CONFIG["run"] | {"shard": True})


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'weight'"):
        config(tmp_path, perceptual={"wieght": 1.0})


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/tokenizer.toml")), ids=lambda path: path.parent.name)
def test_recipes_can_be_read(recipe: Path) -> None:
    assert isinstance(read_config(TokenizerTraining, recipe).run, RunConfig)


def test_a_decoder_alone_learns_to_draw_the_same_tokens(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    start = {"start": str(trained / "image_tokenizer"), "decoder_only": True}
    train_tokenizer(config(output, **start))
    before, after = (load_component(folder / "image_tokenizer") for folder in (trained, output))
    pixels = to_pixels(load(SAMPLE, "train", 32).pixels)
    assert torch.equal(before.encode(pixels), after.encode(pixels))
    errors = [(each.decode(each.encode(pixels)) - pixels).square().mean() for each in (before, after)]
    assert errors[1] < errors[0]
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {name for name in before.state_dict() if name.startswith("decoder.")}


def test_what_only_a_decoder_learns_in_the_published_network(tmp_path: Path) -> None:
    network = VQGAN(VQGANConfig(32, 32, (1, 1), 1, (), 32, 8, codebook_size=16, num_codes=16))
    network.fix_tokens()
    out = network(torch.rand(2, 3, 32, 32))
    out.pixels.sum().backward()
    learned = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learned == {"from_code", "decoder"}
    assert float(out.loss) == 0


def test_a_decoder_alone_needs_something_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name it with start"):
        config(tmp_path, decoder_only=True)
