"""BERT's encoder, for inference only: the states of all tokens, as transformers computes them.

Importing this network from transformers takes longer than everything else that a first image needs. Other families of
text encoders are imported from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.initialising import without_initialising
from vqdiff.foundation.shapes import Float, Int


@dataclass(frozen=True)
class BertConfig:
    """The part of transformers' configuration that this network uses."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BertConfig | None:
        """Read a transformers ``config.json``; None if it describes another network."""
        usual = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
        if "model_type" not in config or any(config.get(key, value) != value for key, value in usual.items()):
            return None
        try:
            return cls(**{each.name: config[each.name] for each in fields(cls) if each.name in config})
        except TypeError:
            return None


class States(NamedTuple):
    """What `Bert` returns."""

    last_hidden_state: Float[Tensor, "B N C"]


class Bert(nn.Module):
    """Token numbers ``(B, N)`` and their mask → states ``(B, N, C)``. Parts are named as in transformers' files."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, width),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, width),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, config.layer_norm_eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})

    @classmethod
    def read(cls, config: BertConfig, weights: Path | None) -> Bert:
        """Read the network from a safetensors file, in float32; without a file, build it on the meta device.

        Raises RuntimeError if the file is of another network.
        """
        with torch.device("meta"), without_initialising():
            network = cls(config)
        if weights is None:
            return network.eval().requires_grad_(False)
        wanted = network.state_dict().keys()
        state = {_modern(name): value for name, value in load_file(weights).items()}
        network.load_state_dict({name: state[name].float() for name in wanted & state.keys()}, assign=True)
        return network.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, input_ids: Int[Tensor, "B N"], attention_mask: Int[Tensor, "B N"]) -> States:
        """Return the states of all tokens; tokens with mask 0 are padding, to which none attends."""
        parts, positions = self.embeddings, torch.arange(input_ids.shape[1], device=input_ids.device)
        x = parts["word_embeddings"](input_ids) + parts["token_type_embeddings"](torch.zeros_like(input_ids))
        x = parts["LayerNorm"](x + parts["position_embeddings"](positions))
        mask = attention_mask.bool()[:, None, None]
        for layer in self.encoder["layer"]:  # type: ignore[union-attr]
            x = layer(x, mask)
        return States(x)


def _modern(name: str) -> str:
    """Return the current name in transformers of a weight in an older file."""
    return name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")


class _Layer(nn.Module):
    """Self-attention, then two linear layers; each added to its input and normalised after."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, wide, self.heads = config.hidden_size, config.intermediate_size, config.num_attention_heads

        def added(inputs: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {"dense": nn.Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, config.layer_norm_eps)}
            )

        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": own, "output": added(width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, wide)})
        self.output = added(wide)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        own: Any = self.attention["self"]
        q, k, v = (own[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = _added(self.attention["output"], attended, x)
        return _added(self.output, F.gelu(self.intermediate["dense"](x)), x)


def _added(parts: Any, change: Tensor, x: Tensor) -> Tensor:
    return parts["LayerNorm"](parts["dense"](change) + x)
