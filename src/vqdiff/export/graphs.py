"""The networks of a model as graphs: what each takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import AbsentTokenizer
from vqdiff.interfaces import Denoiser, ImageTokenizer
from vqdiff.model import Model
from vqdiff.text import ClipTextEncoder

DType = Literal["int64", "float32"]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: its shape without the batch, which comes first."""

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A network with the names and shapes of what it takes and returns."""

    name: str
    network: nn.Module
    inputs: tuple[Port, ...]
    output: Port

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Return inputs that the network accepts, of so many rows: ones."""
        return tuple(torch.ones(rows, *port.shape, dtype=getattr(torch, port.dtype)) for port in self.inputs)


class _Denoiser(nn.Module):
    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, tokens: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.denoiser(tokens, t, condition)


class _Decoder(nn.Module):
    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(tokens)


class _TextEncoder(nn.Module):
    """As `TextEncoder.encode`: zero at padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]


class _ClipTextEncoder(nn.Module):
    """As `ClipTextEncoder.encode_ids`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.normalize(self.model(input_ids=ids).last_hidden_state, dim=-1)


def graphs(model: Model) -> list[Graph]:
    """Return the graphs of a model: its text encoder if it has one, a step of its denoiser, and its decoder.

    Raises InputError if the model's image tokenizer is missing.
    """
    if isinstance(model.image_tokenizer, AbsentTokenizer):
        raise InputError(f"the image codec is missing: name {model.image_tokenizer.config.file} as --image-tokenizer")
    tokens, size = (model.num_tokens,), model.image_tokenizer.config.image_size
    condition = _condition(model)
    step = Graph(
        "denoiser",
        _Denoiser(model.denoiser),
        (Port("tokens", "int64", tokens), Port("t", "int64"), *([condition] if condition else [])),
        Port("logits", "float32", (*tokens, model.schedule.num_codes)),
    )
    decoder = Graph(
        "decoder",
        _Decoder(model.image_tokenizer),
        (Port("tokens", "int64", tokens),),
        Port("pixels", "float32", (3, size, size)),
    )
    return [*_text_encoder(model), step, decoder]


def _condition(model: Model) -> Port | None:
    if (encoder := model.text_encoder) is not None:
        return Port("condition", "float32", (encoder.max_tokens, encoder.width))
    return Port("condition", "int64") if model.num_classes is not None else None


def _text_encoder(model: Model) -> list[Graph]:
    if (encoder := model.text_encoder) is None:
        return []
    network = cast("Any", encoder.model)
    pieces = (encoder.max_tokens,)
    features = Port("features", "float32", (*pieces, encoder.width))
    if isinstance(encoder, ClipTextEncoder):
        return [Graph("text_encoder", _ClipTextEncoder(network), (Port("ids", "int64", pieces),), features)]
    ports = (Port("ids", "int64", pieces), Port("mask", "int64", pieces))
    return [Graph("text_encoder", _TextEncoder(network), ports, features)]
