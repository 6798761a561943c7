"""Layers for inference on a CPU: their weights are stored in the layout of its matrix products, and cannot be trained.

oneDNN's linear layers and convolutions, which reorder a weight in every call unless that was done before, and include
in the same pass what follows them: an activation, a sum or a product.

The result of a linear layer for an image does not depend, bit for bit, on the batch that the image is in. oneDNN
chooses how to divide a product by its shape; where a row might then be summed in another order, a layer
computes one image at a time (`rounds_alike`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float

Scales = tuple[float, float]
"""The factor that the input was multiplied by, and the factor to multiply the output by."""

Activation = Literal["none", "swish"]

AT_ONCE = 2**17
"""The largest number of values that are computed at once, so that they stay in the cache."""

ALIGNMENT = 64
"""The alignment, in bytes, of torch's allocations on a CPU."""

LONG = 512
"""From this number of positions on, the product for one image takes no longer than its share of a larger product."""


class Packed(nn.Module):
    """A layer with a constant weight that torch can neither move nor convert."""

    weight: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        """The dtype of its input and output."""

    def lay_out(self, weight: Tensor) -> Tensor:
        """Return the weight in the layout of this processor."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        probe = torch.empty(0, dtype=self.dtype)
        after = fn(probe)
        if (after.device, after.dtype) != (probe.device, probe.dtype):
            raise InputError("a denoiser packed for the CPU cannot move: load the model with device= or precision=")
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Packed:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weight": self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weight = self.lay_out(self.weight)


class PackedLinear(Packed):
    """``activation(x Wᵀ + b)``, or, instead of the activation, a sum or a product with another tensor.

    It computes in the precision of the weight.
    """

    def __init__(self, linear: nn.Linear, activation: Activation = "none", scales: Scales = (1.0, 1.0)) -> None:
        super().__init__(linear.weight.dtype)
        weight, self.bias = rescaled(linear, scales)
        self.weight = self.lay_out(weight.to(self.dtype))
        if self.bias is not None:
            self.bias = self.bias.to(self.dtype)
        self.activation = activation

    def lay_out(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(
        self, x: Float[Tensor, "B P D"], plus: Tensor | None = None, times: Tensor | None = None
    ) -> Float[Tensor, "B P E"]:
        """Apply the layer; at most one of ``plus`` and ``times`` may be given."""
        if len(x) > 1 and not self.rounds_alike(len(x), x.shape[1], plus is not None, times is not None):
            none = [None] * len(x)
            operands = (none if one is None else one.split(1) for one in (plus, times))
            return torch.cat(
                [self._product(aligned(one), *others) for one, *others in zip(x.split(1), *operands, strict=True)]
            )
        return self._product(x, plus, times)

    def rounds_alike(self, batch: int, length: int, plus: bool = False, times: bool = False) -> bool:
        """Whether images of ``length`` positions are known to give the same result in a batch as alone."""
        threads = torch.get_num_threads()  # a product is divided among them
        return length < LONG and _rounds_alike(
            batch, length, tuple(self.weight.shape), self.dtype, self.activation, plus, times, threads
        )

    def _product(self, x: Tensor, plus: Tensor | None, times: Tensor | None) -> Tensor:
        if plus is None and times is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "")
        other, operation = (times, "mul") if plus is None else (plus, "add")
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, operation)


class SummedLinear(nn.Module):
    """A linear layer as the sum of several, each over a part of the inputs."""

    def __init__(self, linear: nn.Linear, parts: int) -> None:
        super().__init__()
        weights = linear.weight.chunk(parts, 1)
        self.widths = [weight.shape[1] for weight in weights]
        biases = [linear.bias] + [None] * (len(weights) - 1)
        self.parts = nn.ModuleList(PackedLinear(linear_of(*each)) for each in zip(weights, biases, strict=True))

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P E"]:
        total = None
        for part, inputs in zip(self.parts, x.split(self.widths, -1), strict=True):
            total = part(inputs, total)
        assert total is not None
        return total

    def rounds_alike(self, batch: int, length: int) -> bool:
        """See `PackedLinear.rounds_alike`."""
        parts = cast("list[PackedLinear]", list(self.parts))
        return all(part.rounds_alike(batch, length, plus=n > 0) for n, part in enumerate(parts))


class PackedConv2d(Packed):
    """A convolution of stride 1, with an activation as in `PackedLinear`."""

    def __init__(
        self, conv: nn.Conv2d, activation: Activation = "none", scales: Scales = (1.0, 1.0), *, size: int
    ) -> None:
        """Prepare the weight for images of ``size`` × ``size``."""
        super().__init__(conv.weight.dtype)
        weight, self.bias = rescaled(conv, scales)
        if self.bias is not None:
            self.bias = self.bias.to(self.dtype)
        self.geometry = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        self.taken = [1, conv.in_channels, size, size]
        self.weight = self.lay_out(weight.to(self.dtype))
        self.activation = activation

    def lay_out(self, weight: Tensor) -> Tensor:
        weight = weight.to(memory_format=torch.channels_last)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry, self.taken)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.activation, [], ""
        )


class Int8Linear(Packed):
    """As `PackedLinear`, in 8-bit integers: one scale per output, and one per input image.

    Each image is computed by itself, so that its result does not depend on the others in the batch.
    """

    def __init__(self, linear: nn.Linear, activation: Activation = "none", scales: Scales = (1.0, 1.0)) -> None:
        super().__init__(linear.weight.dtype)
        weight, self.bias = rescaled(linear, scales)
        self.scales = weight.abs().amax(1).clamp_min(1e-12) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        levels = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = self.lay_out(levels.T)
        self.activation = activation

    def lay_out(self, weight: Tensor) -> Tensor:
        return torch.ops.onednn.qlinear_prepack(weight.T.contiguous(), None)

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


def packed_linear(linear: nn.Linear, length: int) -> PackedLinear | SummedLinear:
    """Make a layer for images of ``length`` positions, in as few parts as round alike in a batch.

    AMX units change the order of summation from about 500 inputs on.
    """
    whole = PackedLinear(linear)
    for parts in (2, 4):
        if all(whole.rounds_alike(batch, length) for batch in (2, 8, 16)):
            return whole
        split = SummedLinear(linear, parts)
        if all(split.rounds_alike(batch, length) for batch in (2, 8, 16)):
            return split
    return whole


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a linear layer with these weights."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


@cache
def _rounds_alike(
    batch: int,
    length: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    activation: Activation,
    plus: bool,
    times: bool,
    threads: int,
) -> bool:
    """Try a layer of these sizes on numbers whose sums reveal the order of summation.

    A kernel's order depends on sizes, not on values, so one answer holds for all weights and images.
    """
    for seed in _seeds(length * shape[0]):
        x, weight = telling((length,), (shape[0],), shape[1], dtype, seed)
        layer = PackedLinear(linear_of(weight, torch.ones(shape[0], dtype=dtype)), activation)
        other = telling((length,), (1,), shape[0], dtype, seed)[0]
        operands = x, other if plus else None, other if times else None
        if not _alike(layer._product, batch, *operands):
            return False
    return True


def products(a: Float[Tensor, "B H P M"], b: Float[Tensor, "B H N D"], *, transposed: bool = False) -> Tensor:
    """The products a bᵀ of every head (a b if b is ``transposed``), for each image the same as alone."""
    a, b = a.contiguous(), b.contiguous()
    if len(a) == 1 or (
        a.shape[2] < LONG
        and _products_round_alike(len(a), a.shape[1:], b.shape[1:], a.dtype, transposed, torch.get_num_threads())
    ):
        return _products(a, b, transposed)
    images = zip(a.split(1), b.split(1), strict=True)
    return torch.cat([_products(aligned(left), aligned(right), transposed) for left, right in images])


def _products(a: Tensor, b: Tensor, transposed: bool) -> Tensor:
    flat = b.flatten(0, 1)
    return torch.bmm(a.flatten(0, 1), flat if transposed else flat.mT).unflatten(0, a.shape[:2])


@cache
def _products_round_alike(
    batch: int, a: torch.Size, b: torch.Size, dtype: torch.dtype, transposed: bool, threads: int
) -> bool:
    """As `_rounds_alike`."""
    for seed in _seeds(a[0] * a[1] * b[2 if transposed else 1]):
        x, y = telling(a[:2], b[:1] + b[2:] if transposed else b[:2], a[2], dtype, seed)
        if not _alike(partial(_products, transposed=transposed), batch, x, y.mT if transposed else y):
            return False
    return True


def _alike(product: Callable[..., Tensor], batch: int, *operands: Tensor | None) -> bool:
    """Whether a product of one image is, bit for bit, the same as in a batch of copies of it."""
    alone, together = (
        product(*(None if one is None else one.expand(size, *one.shape).contiguous() for one in operands))
        for size in (1, batch)
    )
    return torch.equal(alone.expand_as(together), together)


def _seeds(outputs: int) -> range:
    """Seeds for enough numbers to compare thousands of sums: a few may agree by chance."""
    return range(2 + min(62, 2**12 // outputs))


def telling(
    left: Sequence[int], right: Sequence[int], inputs: int, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor]:
    """Numbers (*left, inputs) and (*right, inputs) whose products are large; for an even seed they sum to zero.

    The rounding error then reveals the order of summation, and whether products were rounded before.
    """
    numbers = torch.Generator().manual_seed(seed)
    order = torch.randperm(inputs, generator=numbers)
    pairs: list[Tensor] = []
    for rows, sign in ((left, 1 if seed % 2 else -1), (right, 1)):
        half = torch.randn(*rows, inputs // 2, generator=numbers)
        half *= torch.exp2(torch.randint(0, 10, half.shape, generator=numbers))
        pairs.append(torch.cat([half, sign * half, torch.ones(*rows, inputs % 2)], -1)[..., order].to(dtype))
    return pairs[0], pairs[1]


def aligned(x: Tensor) -> Tensor:
    """Return the tensor at an address aligned as a new one's: kernels may round differently at others."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def quantized(x: Float[Tensor, "L D"]) -> tuple[Tensor, float, int]:
    """Return 8-bit integers q, a scale and a zero point such that x ≈ (q − zero) · scale."""
    low, high = (float(end) for end in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-12) / 254  # not 255: the zero is rounded too
    zero = round(-low / scale)
    # Via signed bytes, to which torch converts eight times as fast.
    levels, start = torch.empty(x.shape, dtype=torch.int8), torch.tensor(zero - 128.0)
    rows = max(1, AT_ONCE // x.shape[1])
    for place, part in zip(levels.split(rows), x.split(rows), strict=True):
        place.copy_(torch.add(start, part.float(), alpha=1 / scale).round_())
    return levels.bitwise_xor_(-128).view(torch.uint8), scale, zero


def rescaled(layer: nn.Linear | nn.Conv2d, scales: Scales) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float32 for an input that was multiplied by one factor and an output multiplied by another."""
    taken, given = scales
    bias = None if layer.bias is None else layer.bias.detach().float() * given
    return layer.weight.detach().float() * (given / taken), bias
