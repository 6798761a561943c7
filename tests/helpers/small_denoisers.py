"""Denoisers of every kind with a few thousand weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser

IMAGES = 32
SIZES: dict[str, Any] = {"num_codes": 50, "num_steps": 8, "grid_size": 8, "width": 64, "depth": 3, "heads": 4}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "text": lambda: ClassicDenoiser(ClassicConfig(**SIZES, text_width=16)),
    "class": lambda: ClassicDenoiser(ClassicConfig(**SIZES, num_classes=4, conv_mlp=True)),
    "unconditional": lambda: ClassicDenoiser(ClassicConfig(**SIZES)),
    "modern": lambda: ModernDenoiser(ModernConfig(**SIZES, token_width=32, text_width=16)),
}


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TOKENS = torch.randint(0, 51, (IMAGES, 64), generator=_random(1))
TIMES = torch.randint(1, 9, (IMAGES,), generator=_random(3))
_TEXT = torch.randn(IMAGES, 7, 16, generator=_random(2))
CONDITIONS: dict[str, Tensor | None] = {
    "text": _TEXT,
    "modern": _TEXT,
    "class": torch.arange(IMAGES) % 5,
    "unconditional": None,
}


def trained(network: nn.Module) -> Any:
    """The network with weights that all have a say."""
    network = network.eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        weight.normal_(float("norm.weight" in name), 0.15)
    return network
