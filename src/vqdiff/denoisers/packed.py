"""The same denoisers, converted for inference on a CPU: faster and smaller, but no longer trainable.

What is constant over steps and images is computed once: the norms' scales and shifts of all steps (whose
weights, a fifth of the published ITHQ model, are then dropped), and the layout of the weights. Several passes of torch
become one: a norm with its scale and shift, a linear layer with its activation or sum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.denoisers.classic import (
    AdaptiveNorm,
    Block,
    ClassicDenoiser,
    PreparedBlock,
    PreparedText,
    split_heads,
)
from vqdiff.denoisers.layers import Int8Linear, Packed, PackedConv2d, PackedLinear
from vqdiff.denoisers.modern import ModernDenoiser
from vqdiff.denoisers.packed_modern import PackedModern
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import release, trim
from vqdiff.foundation.processor import can_pack, processor
from vqdiff.foundation.shapes import Float, Int
from vqdiff.interfaces import Denoiser, Network

GELU = 1.702
"""x·σ(1.702x) = swish(1.702x) / 1.702: the norm before the MLP multiplies by it, and the last layer divides."""

SCORES = 2**20
"""The number of attention scores that stay in a CPU's cache: 2 MiB of bfloat16."""


def pack(denoiser: Denoiser, *, int8: bool = False) -> Denoiser:
    """Convert a denoiser for inference, consuming its layers; returns it unchanged unless it is on the CPU.

    int8: linear layers of eight bits, which slightly changes the predictions; see `docs/experiments.md`.
    Convolutions, the embeddings and the head are not quantised. Raises InputError if the machine has no units for it.
    """
    weight = next(denoiser.parameters())
    if not can_pack(weight.device, weight.dtype):
        if int8:
            raise InputError(f"int8 is for x86 CPUs, not for {weight.device}: use bfloat16 or float32")
        return denoiser
    if int8 and processor().int8 is None:
        raise InputError("this CPU has no VNNI units for int8: use bfloat16 or float32")
    linear = Int8Linear if int8 else PackedLinear
    if isinstance(denoiser, ClassicDenoiser):
        for index in range(len(denoiser.blocks)):
            _replace(denoiser.blocks, index, linear)
            trim()
    if isinstance(denoiser, ModernDenoiser):
        return PackedModern(denoiser, int8=int8)
    return denoiser


def _replace(blocks: nn.ModuleList, index: int, linear: type[PackedLinear | Int8Linear]) -> None:
    block = cast("Block", blocks[index])
    blocks[index] = PackedBlock(block, linear)
    for weight in block.parameters():
        release(weight)


def is_packed(module: Network) -> bool:
    """Whether some weights exist only in packed form."""
    return any(isinstance(part, Packed) for part in module.modules())


def precision_of(denoiser: Network) -> str:
    """The dtype of its weights, or int8."""
    if any(isinstance(part, Int8Linear) for part in denoiser.modules()):
        return "int8"
    return str(next(denoiser.parameters()).dtype).removeprefix("torch.")


class PackedBlock(nn.Module):
    """The same computation as `Block`."""

    def __init__(self, block: Block, linear: type[PackedLinear | Int8Linear]) -> None:
        super().__init__()
        attention, mlp = block.self_attention, block.mlp
        self.heads = attention.heads
        self.steps = table(block.self_norm, block.self_norm.embedding.weight)
        self.qkv, self.out = linear(attention.qkv), linear(attention.out)
        self.cross_steps: Tensor | None = None
        if hasattr(block, "cross_norm"):
            self.cross_steps = table(block.cross_norm, block.cross_norm.embedding.weight)
            self.cross_q = linear(block.cross_attention.q)
            self.cross_kv = block.cross_attention.kv  # once per image
            self.cross_out = linear(block.cross_attention.out)
        if isinstance(block.mlp_norm, AdaptiveNorm):
            self.mlp_rows = GELU * table(block.mlp_norm, block.class_rows())
        else:
            self.mlp_rows = GELU * torch.cat([block.mlp_norm.weight, block.mlp_norm.bias]).float()[None]
        self.grid = mlp.grid
        wide: Callable[..., nn.Module] = linear if mlp.grid is None else partial(PackedConv2d, size=mlp.grid[0])
        widen, narrow = cast("tuple[Any, Any]", (mlp.widen, mlp.narrow))
        self.widen, self.narrow = wide(widen, "swish", (GELU, GELU)), wide(narrow, "none", (GELU, 1.0))

    def prepare(self, condition: Tensor | None) -> PreparedBlock:
        """See :meth:`ClassicDenoiser.prepare`."""
        text = label = None
        if condition is not None and self.cross_steps is not None:
            keys, values = (
                split_heads(part, self.heads).contiguous() for part in self.cross_kv(condition).chunk(2, -1)
            )
            text = PreparedText(self.cross_steps, keys, values)
        elif condition is not None:
            label = F.embedding(condition, self.mlp_rows)
        return PreparedBlock(self.steps, text, label)

    def forward(
        self, x: Float[Tensor, "B L D"], t: Int[Tensor, " B"], prepared: PreparedBlock, bias: Tensor | None = None
    ) -> Tensor:
        """The features after this layer, at steps ``t`` in 1..T; ``bias`` is added to the scores of text keys."""
        step, text, label = prepared
        q, k, v = self.qkv(norm(x, F.embedding(t - 1, step))).chunk(3, dim=-1)
        x = self.out(attention(*(split_heads(part, self.heads) for part in (q, k, v))), x)
        if text is not None:
            q = self.cross_q(norm(x, F.embedding(t - 1, text.steps)))
            x = self.cross_out(attention(split_heads(q, self.heads), text.keys, text.values, bias), x)
        normed = norm(x, self.mlp_rows if label is None else label)
        if self.grid is None:
            return self.narrow(self.widen(normed), x)
        grid = normed.transpose(1, 2).unflatten(2, self.grid)
        return x + self.narrow(self.widen(grid)).flatten(2).transpose(1, 2)


def table(adaptive: AdaptiveNorm, rows: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoD"]:
    """1 + scale and shift, side by side and in float32, for embedded rows."""
    linear = adaptive.linear
    scale, shift = F.linear(F.silu(rows.float()), linear.weight.float(), linear.bias.float()).chunk(2, -1)
    return torch.cat([1 + scale, shift], -1)


def norm(x: Float[Tensor, "B L D"], rows: Float[Tensor, "#B twoD"]) -> Float[Tensor, "B L D"]:
    """Layer norm with scales and shifts per image, or the same for all, which takes one pass."""
    scales, shifts = rows.chunk(2, dim=-1)
    if len(rows) == 1 or rows.eq(rows[0]).all():
        return F.layer_norm(x, x.shape[-1:], scales[0], shifts[0])
    pictures = zip(x, scales, shifts, strict=True)
    return torch.stack([F.layer_norm(one, one.shape[-1:], scale, shift) for one, scale, shift in pictures])


def attention(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B H N d"],
    v: Float[Tensor, "B H N d"],
    bias: Float[Tensor, "B 1 1 N"] | None = None,
) -> Float[Tensor, "B L D"]:
    """Scaled dot-product attention, with its heads concatenated.

    Written out for bfloat16, some heads at a time, because torch's own converts to float32.
    """
    if q.dtype != torch.bfloat16 or bias is not None:
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
    batch, heads, length, width = q.shape
    values = F.pad(v, (0, -width % 32))  # a product 88 wide takes 1.4 times as long as one of 96
    parts = ((q * width**-0.5).flatten(0, 1), k.contiguous().flatten(0, 1), values.contiguous().flatten(0, 1))
    out = q.new_empty(batch * heads, length, values.shape[-1])
    at_once = max(1, SCORES // (length * k.shape[2]))
    for queries, keys, values, place in zip(*(one.split(at_once) for one in (*parts, out)), strict=True):
        torch.bmm(torch.bmm(queries, keys.mT).softmax(-1), values, out=place)
    return out[..., :width].unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
