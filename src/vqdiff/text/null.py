"""The null condition ∅ of classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vqdiff.foundation.shapes import Float
from vqdiff.text.encoders import AnyTextEncoder

NullKind = Literal["learnable", "empty", "zero"]


@dataclass(frozen=True)
class NullConfig:
    """Which ∅ guidance subtracts: a learned embedding (Improved VQ-Diffusion), the empty caption's features, zeros."""

    kind: NullKind = "learnable"
    num_tokens: int = 32
    width: int = 384


class NullCondition(nn.Module):
    """∅ as text features ``(B, N, C)``; trained along with the denoiser where it is learnable (paper, section 3.1)."""

    Config = NullConfig
    embedding: Tensor

    def __init__(self, config: NullConfig) -> None:
        super().__init__()
        self.config = config
        values = torch.zeros(config.num_tokens, config.width)
        if config.kind == "learnable":
            self.embedding = nn.Parameter(nn.init.normal_(values, std=0.5))
        else:
            self.register_buffer("embedding", values)

    @classmethod
    def of(cls, kind: NullKind, encoder: AnyTextEncoder) -> NullCondition:
        """Return a new null condition of this kind, in the shape of the features of ``encoder``."""
        null = cls(NullConfig(kind, encoder.max_tokens, encoder.width))
        if kind == "empty":
            null.set_empty(encoder)
        return null

    def set_empty(self, encoder: AnyTextEncoder) -> None:
        """Fill the "empty" kind with the encoder's features of the empty caption."""
        self.embedding.copy_(encoder.encode([""])[0])

    def forward(self, batch_size: int) -> Float[Tensor, "B N C"]:
        """∅ for every image of a batch."""
        return self.embedding.expand(batch_size, -1, -1)
