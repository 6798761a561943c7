"""What a picture is asked for: text features from a frozen transformers encoder, and the null condition ∅."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vqdiff.errors import InputError
from vqdiff.shapes import Float


class TextEncoder:
    """A transformers encoder folder, read once; text → last hidden states, zero where there is padding.

    ``max_tokens`` counts the special tokens at both ends.
    """

    def __init__(self, folder: Path, max_tokens: int = 32) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.folder, self.max_tokens = folder, max_tokens
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"{folder} is no complete text encoder: tokenizer.json is missing")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{folder} is no complete text encoder: {str(error).splitlines()[0]}") from error
        self.width: int = self.model.config.hidden_size

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the network to ``device``."""
        self.model.to(device)
        return self

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError for the first text that does not fit."""
        for text, pieces in zip(texts, self.tokenizer(list(texts))["input_ids"], strict=True):
            if len(pieces) > self.max_tokens:
                raise InputError(
                    f"the prompt {text[:40] + '…'!r} has {len(pieces) - 2} word pieces, "
                    f"the limit is {self.max_tokens - 2}: shorten it"
                )

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B N C"]:
        """Features of ``texts``, N = max_tokens; InputError for a text that does not fit."""
        self.check(texts)
        batch = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.model.device)
        states = self.model(**batch).last_hidden_state * batch["attention_mask"][..., None]
        return nn.functional.pad(states, (0, 0, 0, self.max_tokens - states.shape[1]))

    def save(self, folder: Path) -> None:
        """Copy the transformers folder."""
        shutil.copytree(self.folder, folder)


NullKind = Literal["learnable", "empty", "zero"]


@dataclass(frozen=True)
class NullConfig:
    """Which ∅ guidance subtracts: a learned embedding (the paper's), the empty caption's features, or zeros."""

    kind: NullKind = "learnable"
    num_tokens: int = 32
    width: int = 384


class NullCondition(nn.Module):
    """∅ as text features ``(B, N, C)``; trained along with the denoiser where it is learnable (paper, section 3.1)."""

    embedding: Tensor

    def __init__(self, config: NullConfig) -> None:
        super().__init__()
        self.config = config
        values = torch.zeros(config.num_tokens, config.width)
        if config.kind == "learnable":
            self.embedding = nn.Parameter(nn.init.normal_(values, std=0.5))
        else:
            self.register_buffer("embedding", values)

    def set_empty(self, encoder: TextEncoder) -> None:
        """Fill the "empty" kind with the encoder's features of the empty caption."""
        self.embedding.copy_(encoder.encode([""])[0])

    def forward(self, batch_size: int) -> Float[Tensor, "B N C"]:
        """∅ for every picture of a batch."""
        return self.embedding.expand(batch_size, -1, -1)
