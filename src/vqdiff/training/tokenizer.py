"""Stage one: train the image tokenizer on pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqdiff.data import PictureSet, load
from vqdiff.files import atomic_path
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer, code_use
from vqdiff.metrics import psnr
from vqdiff.model import save_component
from vqdiff.pictures import grid, to_pixels
from vqdiff.training.loop import RunConfig, train


@dataclass(frozen=True)
class ReconstructionLoss:
    """Weights of the reconstruction terms; pixels in [0, 1]."""

    absolute: float = 1.0
    squared: float = 2.0
    gradient: float = 0.5
    """On horizontal and vertical differences of neighbouring pixels: keeps edges sharp."""

    def __call__(self, decoded: Tensor, pixels: Tensor) -> Tensor:
        error = decoded - pixels
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        return self.absolute * error.abs().mean() + self.squared * error.square().mean() + self.gradient * gradient


@dataclass(frozen=True)
class TokenizerTraining:
    """Everything ``vqdiff train tokenizer`` needs."""

    data: Path
    output: Path
    run: RunConfig
    model: CompactConfig = field(default_factory=CompactConfig)
    loss: ReconstructionLoss = field(default_factory=ReconstructionLoss)
    flip: bool = True
    """Mirror half of the pictures."""
    held_out: str = "test"
    """Splits whose name starts so are the held-out pictures."""
    evaluate: int = 512
    """Held-out pictures scored at every preview."""


class TokenizerTask:
    """Reconstruct pictures through the quantizer."""

    def __init__(self, config: TokenizerTraining, train_set: PictureSet, test_set: PictureSet) -> None:
        self.config, self.train_set = config, train_set
        rows = np.linspace(0, len(test_set.pixels) - 1, min(config.evaluate, len(test_set.pixels))).astype(int)
        self.test_pixels = test_set.pixels[rows]
        torch.manual_seed(config.run.seed)
        self.model = CompactTokenizer(config.model)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        random = np.random.default_rng((self.config.run.seed, step))
        torch.manual_seed(int(random.integers(2**63)))  # where revived codes are placed
        size = self.config.run.batch_size
        rows = random.choice(len(self.train_set.pixels), size, p=self.train_set.weights)
        batch = self.train_set.pixels[np.sort(rows)]
        if self.config.flip:
            batch = np.concatenate([batch[: size // 2], batch[size // 2 :, :, ::-1]])
        pixels = to_pixels(batch)
        out = self.model(pixels)
        loss = self.config.loss(out.pixels, pixels) + out.loss
        with torch.no_grad():
            use = code_use(out.tokens, self.model.num_codes)
            metrics = {"psnr": psnr(out.pixels, pixels).mean(), "perplexity": torch.tensor(use.perplexity)}
        return loss, metrics

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        quality = reconstruction_quality(model, self.test_pixels)
        if quality["codes_used"] < 0.9:
            print(
                f"warning: held-out pictures use only {quality['codes_used']:.0%} of the codes; fewer would do as well"
            )
        return quality

    @torch.no_grad()
    def preview(self, model: Any, path: Path) -> None:
        pixels = to_pixels(self.test_pixels[:: max(1, len(self.test_pixels) // 24)][:24])
        decoded = model.decode(model.encode(pixels))
        rows = [row for pair in zip(pixels.split(8), decoded.split(8), strict=True) for row in pair]
        with atomic_path(path) as temporary:
            grid(torch.cat(rows), columns=8).save(temporary)

    def save(self, model: Any, folder: Path) -> None:
        save_component(model, folder / "image_tokenizer")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state


@torch.no_grad()
def reconstruction_quality(model: Any, pictures: NDArray[np.uint8], batch_size: int = 64) -> dict[str, float]:
    """Mean PSNR (dB, after rounding to 8 bits) over ``pictures`` and the codebook's use on them."""
    scores, tokens = list[Tensor](), list[Tensor]()
    for start in range(0, len(pictures), batch_size):
        pixels = to_pixels(pictures[start : start + batch_size])
        tokens.append(model.encode(pixels))
        decoded = model.decode(tokens[-1])
        scores.append(psnr((decoded * 255).round() / 255, pixels))
    use = code_use(torch.cat(tokens), model.num_codes)
    return {"psnr": float(torch.cat(scores).mean()), "codes_used": use.used, "perplexity": use.perplexity}


def train_tokenizer(config: TokenizerTraining, *, resume: bool = False) -> None:
    """Train and write ``output/image_tokenizer``; see :func:`vqdiff.training.loop.train`."""

    def task() -> TokenizerTask:
        sets = (load(config.data, split, config.model.image_size) for split in ("train", config.held_out))
        return TokenizerTask(config, *sets)

    train(task, config.run, config.output, resume=resume)
