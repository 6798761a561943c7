"""Weights that are stored in fewer bits than they are computed with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Storage = Literal["float32", "float16", "int8"]
"""How the weights of a graph are stored. All graphs compute in float32."""

_SMALL = 1024  # elements below which a tensor stays in float32


class Stored(nn.Module):
    """A network whose large weights are stored as float16 or int8 and converted to float32 when it is called.

    int8: matrices, convolutions and embeddings, with one scale per row, so that the largest weight of a row is ±127
    scales; other large weights are float16.
    """

    def __init__(self, network: nn.Module, storage: Storage) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that its own weights are not stored as well
        self._scaled = list[str]()
        self._names = dict[str, str]()
        values = dict(network.named_parameters()) | dict(network.named_buffers())
        for number, (name, value) in enumerate(values.items()):
            self._names[name] = own = f"value_{number}"
            self._store(own, value.detach(), storage)

    def _store(self, name: str, value: Tensor, storage: Storage) -> None:
        large = value.is_floating_point() and value.numel() >= _SMALL
        if large and storage == "int8" and value.ndim > 1:
            largest = value.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny)
            scale = (largest / 127).view(-1, *[1] * (value.ndim - 1))
            self.register_buffer(f"{name}_scale", scale)
            self._scaled.append(name)
            value = (value / scale).round().to(torch.int8)
        elif large and storage != "float32":
            value = value.half()
        self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute what the network computes, with its stored weights."""
        weights = {name: self._weight(own) for name, own in self._names.items()}
        return torch.func.functional_call(self._network[0], weights, inputs)

    def _weight(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        if name in self._scaled:
            return value.float() * getattr(self, f"{name}_scale")
        return value.float() if value.is_floating_point() else value
