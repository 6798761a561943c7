"""The cost of training here, before there is a configuration: the default networks, timed on one batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vqdiff.denoisers import ModernConfig, ModernDenoiser
from vqdiff.foundation.processor import bf16_where_faster
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer

_BATCH = 8
_TEXT = 32, 384  # tokens and width of a caption's features


@dataclass(frozen=True)
class Cost:
    """Seconds per image of each stage, forward and backward, in the precision of ``run.precision = "auto"``."""

    tokenizer: float
    denoiser: float


def measure_cost(image_size: int, device: torch.device) -> Cost:
    """Time the default networks at ``image_size``, rounded up to whole patches; takes a few seconds."""
    config = CompactConfig()
    config = CompactConfig(image_size=-(-image_size // (2 * config.patch_size)) * 2 * config.patch_size)
    tokenizer = CompactTokenizer(config).to(device)
    sizes = ModernConfig(config.num_codes, num_steps=100, grid_size=tokenizer.grid_size, text_width=_TEXT[1])
    denoiser = ModernDenoiser(sizes).to(device)
    pixels = torch.rand(_BATCH, 3, config.image_size, config.image_size, device=device)
    tokens = torch.randint(config.num_codes, (_BATCH, tokenizer.grid_size**2), device=device)
    t = torch.randint(1, sizes.num_steps + 1, (_BATCH,), device=device)
    text = torch.randn(_BATCH, *_TEXT, device=device)

    def reconstruct() -> Tensor:
        out = tokenizer(pixels)
        return F.l1_loss(out.pixels, pixels) + out.loss

    def predict() -> Tensor:
        return F.cross_entropy(denoiser(tokens, t, text).flatten(0, 1).float(), tokens.flatten())

    return Cost(_time(reconstruct, device) / _BATCH, _time(predict, device) / _BATCH)


def _time(loss: Callable[[], Tensor], device: torch.device) -> float:
    seconds = 0.0
    for _ in range(2):  # the first call is for warm-up
        start = time.perf_counter()
        with bf16_where_faster(device):
            value = loss()
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds
