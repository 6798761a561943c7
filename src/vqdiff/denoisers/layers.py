"""Layers for drawing on a CPU: their weights lie as its matrix products want them, and cannot be trained.

oneDNN's linear layers and convolutions, which lay a weight out anew in every call unless that was done before, and take
into the same pass what follows them: an activation, or a sum with ``plus``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqdiff.errors import InputError
from vqdiff.shapes import Float

Scales = tuple[float, float]
"""What the input has been multiplied by, and what the output is to be multiplied by."""

AT_ONCE = 2**17
"""So many numbers are made whole at once that they stay in the cache."""


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :class:`PackedLinear` and :class:`PackedConv2d` work there."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return torch.backends.mkldnn.is_available() and (dtype == torch.float32 or (dtype == torch.bfloat16 and bf16()))


def has_int8_units() -> bool:
    """Whether this CPU multiplies bytes without overflow (VNNI)."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


class Packed(nn.Module):
    """A layer whose weight torch can neither move nor convert."""

    weight: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        """That of what it takes and gives."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        probe = torch.empty(0, dtype=self.dtype)
        after = fn(probe)
        if (after.device, after.dtype) != (probe.device, probe.dtype):
            raise InputError("a denoiser packed for the CPU cannot move: load the model with device= or precision=")
        return self


class PackedLinear(Packed):
    """``activation(x Wᵀ + b) + plus``, in the precision of the weight; the activation is "none" or "swish"."""

    def __init__(self, linear: nn.Linear, activation: str = "none", scales: Scales = (1.0, 1.0)) -> None:
        super().__init__(linear.weight.dtype)
        weight, self.bias = rescaled(linear, scales)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(linear.weight.dtype), None)
        if self.bias is not None:
            self.bias = self.bias.to(linear.weight.dtype)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B L D"], plus: Tensor | None = None) -> Float[Tensor, "B L E"]:
        if plus is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, plus, self.weight, self.bias, "add")


class PackedConv2d(Packed):
    """A convolution of stride 1, with an activation as in `PackedLinear`."""

    def __init__(self, conv: nn.Conv2d, activation: str = "none", scales: Scales = (1.0, 1.0), *, size: int) -> None:
        """Lay the weight out for pictures of ``size`` × ``size``."""
        super().__init__(conv.weight.dtype)
        weight, self.bias = rescaled(conv, scales)
        weight = weight.to(conv.weight.dtype, memory_format=torch.channels_last)
        if self.bias is not None:
            self.bias = self.bias.to(conv.weight.dtype)
        self.geometry = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        shape = [1, conv.in_channels, size, size]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry, shape)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.activation, [], ""
        )


class Int8Linear(Packed):
    """As `PackedLinear`, in whole numbers of eight bits: a scale for each output, and one for each picture put in.

    Each picture by itself: what comes out must not depend on the others in the batch.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none", scales: Scales = (1.0, 1.0)) -> None:
        super().__init__(linear.weight.dtype)
        weight, self.bias = rescaled(linear, scales)
        self.scales = weight.abs().amax(1).clamp_min(1e-12) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        levels = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B L D"], plus: Tensor | None = None) -> Float[Tensor, "B L E"]:
        pictures = [self._of_one(one, None if plus is None else plus[row]) for row, one in enumerate(x)]
        return pictures[0][None] if len(pictures) == 1 else torch.stack(pictures)

    def _of_one(self, x: Float[Tensor, "L D"], plus: Tensor | None) -> Float[Tensor, "L E"]:
        levels, scale, zero = quantized(x)
        weight = self.weight, self.scales, self.zeros
        if plus is None:
            return torch.ops.onednn.qlinear_pointwise(
                levels, scale, zero, *weight, self.bias, 1.0, 0, x.dtype, self.activation, [], ""
            )
        return torch.ops.onednn.qlinear_pointwise.binary(
            levels, scale, zero, *weight, plus, self.bias, 1.0, 0, x.dtype, 1.0, 0, "add", 1.0, "none", [], ""
        )


def quantized(x: Float[Tensor, "L D"]) -> tuple[Tensor, float, int]:
    """Whole numbers q of eight bits, a scale and a zero, such that x ≈ (q − zero) · scale."""
    low, high = (float(end) for end in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-12) / 254  # not 255: the zero is rounded too
    zero = round(-low / scale)
    # By way of signed bytes, to which torch converts eight times as fast.
    levels, start = torch.empty(x.shape, dtype=torch.int8), torch.tensor(zero - 128.0)
    rows = max(1, AT_ONCE // x.shape[1])
    for place, part in zip(levels.split(rows), x.split(rows), strict=True):
        place.copy_(torch.add(start, part.float(), alpha=1 / scale).round_())
    return levels.bitwise_xor_(-128).view(torch.uint8), scale, zero


def rescaled(layer: nn.Linear | nn.Conv2d, scales: Scales) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float32 that take an input multiplied by one number and give the output times another."""
    taken, given = scales
    bias = None if layer.bias is None else layer.bias.detach().float() * given
    return layer.weight.detach().float() * (given / taken), bias
