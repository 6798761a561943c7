"""`ModernDenoiser` converted for inference on a CPU."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.denoisers.layers import Int8Linear, PackedLinear, aligned, linear_of, packed_linear, products
from vqdiff.denoisers.modern import Block, ModernCondition, ModernDenoiser, modulate, rotate
from vqdiff.foundation.shapes import Float, Int


class PackedModern(ModernDenoiser):
    """The same computation as `ModernDenoiser`, in which an image gives, bit for bit, the same result in any batch.

    This requires that the conditions were prepared one by one, as in `Model.bind`. Besides matrix products
    (`PackedLinear`, `products`), only operations that round every element, or every row of features, by itself run on a
    whole batch. Everything else takes one image at a time.
    """

    batch_invariant = True
    time_table: Tensor
    rope: Tensor

    def __init__(self, network: ModernDenoiser, *, int8: bool = False) -> None:
        nn.Module.__init__(self)
        self.config, self.recompute = network.config, False
        for name, part in network.named_children():
            if name not in ("token_embedding", "merge", "time", "blocks"):
                self.add_module(name, part)
        length, dtype = (network.config.grid_size // network.config.patch_size) ** 2, network.head.weight.dtype
        self.register_buffer("time_table", network.times(), persistent=False)
        self.register_buffer("rope", network.rope.to(dtype), persistent=False)
        self.patches = PatchEmbedding(network)
        self.blocks = nn.ModuleList(PackedModernBlock(cast("Block", block), length, int8) for block in network.blocks)
        self.modulation, self.final_modulation = (
            PackedLinear(network.modulation),
            PackedLinear(network.final_modulation),
        )
        self.split = packed_linear(network.split, length)
        self.head = PackedLinear(network.head)

    def times(self) -> Float[Tensor, "steps D"]:
        """See `ModernDenoiser.times`."""
        return self.time_table

    def logits(self, features: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows K"]:
        """See `ModernDenoiser.logits`; if there are three dimensions, the first is the image."""
        normed = self.head_norm(features)
        if features.ndim != 3:
            return self.head(normed.view(1, -1, normed.shape[-1])).view(*features.shape[:-1], -1)
        return torch.cat([self.head(aligned(one)) for one in normed.split(1)])

    def _vector(self, context: ModernCondition, t: Int[Tensor, "B"]) -> Float[Tensor, "B 1 D"]:
        vector = context.times[t]
        vector = vector if context.vector is None else vector + context.vector
        return torch.stack([F.silu(one) for one in vector.split(1)])  # exp rounds differently at the end of a tensor

    def _embed(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B P D"]:
        return self.patches(self._to_patches(tokens[..., None]))


class PatchEmbedding(nn.Module):
    """Token embedding and the layer that merges a patch of tokens, in one: a sum of rows of a table."""

    first: Tensor

    def __init__(self, network: ModernDenoiser) -> None:
        super().__init__()
        embedding, merge = network.token_embedding.weight, network.merge
        self.dtype = embedding.dtype
        weight = merge.weight.float().unflatten(1, (-1, embedding.shape[1]))
        rows = torch.einsum("ke,dpe->pkd", embedding.float(), weight)
        rows[0] += merge.bias.float()
        self.register_buffer("first", torch.arange(len(rows)) * rows.shape[1], persistent=False)
        self.table = nn.Parameter(rows.flatten(0, 1), requires_grad=False)

    def forward(self, patches: Int[Tensor, "B P p2"]) -> Float[Tensor, "B P D"]:
        rows = (patches + self.first).flatten(0, 1)
        return F.embedding_bag(rows, self.table, mode="sum").to(self.dtype).unflatten(0, patches.shape[:2])


class PackedModernBlock(nn.Module):
    """The same computation as `Block`."""

    norms: Tensor
    offsets: Tensor

    def __init__(self, block: Block, length: int, int8: bool) -> None:
        super().__init__()
        dtype = block.qkv.weight.dtype
        linear = Int8Linear if int8 else PackedLinear
        self.heads = block.heads
        self.key_norm = block.key_norm
        norms = torch.stack([block.query_norm.weight, block.key_norm.weight])[:, None].to(dtype)
        self.register_buffer("norms", norms, persistent=False)
        self.register_buffer("offsets", block.offsets.to(dtype), persistent=False)
        self.qkv, self.out = linear(block.qkv), linear(block.out)
        self.gated = Int8Gated(block.up) if int8 else Gated(block.up)
        self.down = Int8Linear(block.down) if int8 else packed_linear(block.down, length)

    def prepare(self, keys: Float[Tensor, "B H N C"]) -> Float[Tensor, "B H N C"]:
        """See `Block.prepare`."""
        return self.key_norm(keys)

    def forward(
        self, x: Tensor, modulation: Tensor, rope: Tensor, text: tuple[Tensor, Tensor, Tensor | None] | None
    ) -> Float[Tensor, "B P D"]:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.offsets).unbind(-2)
        qk, v = self.qkv(modulate(x, scale1, shift1)).unflatten(-1, (3, self.heads, -1)).tensor_split((2,), 2)
        qk = rotate(F.rms_norm(qk, qk.shape[-1:]) * self.norms, rope[:, :, None, None])
        (q, k), v = qk.permute(2, 0, 3, 1, 4), v[:, :, 0].transpose(1, 2)
        bias = None
        if text is not None:
            keys, values, bias = text
            k, v = torch.cat([k, keys], 2), torch.cat([v, values], 2)
        scores = products(q * q.shape[-1] ** -0.5, k)
        if bias is not None:
            scores += F.pad(bias, (x.shape[1], 0)).to(scores.dtype)
        attended = products(scores.softmax(-1), v, transposed=True)
        x = torch.addcmul(x, gate1, self.out(attended.transpose(1, 2).flatten(2)))
        return torch.addcmul(x, gate2, self.down(self.gated(modulate(x, scale2, shift2))))


class Gated(nn.Module):
    """The first layer of a SwiGLU: silu(x G) · x U, each product fused with the operation that follows it."""

    def __init__(self, both: nn.Linear) -> None:
        super().__init__()
        gate, up = (linear_of(*parts) for parts in zip(both.weight.chunk(2), both.bias.chunk(2), strict=True))
        self.gate, self.up = PackedLinear(gate, "swish"), PackedLinear(up)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P E"]:
        return self.up(x, times=self.gate(x))


class Int8Gated(nn.Module):
    """As `Gated`, but with one product, so that its input is quantised once."""

    def __init__(self, both: nn.Linear) -> None:
        super().__init__()
        self.both = Int8Linear(both)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P E"]:
        halves = (one.chunk(2, -1) for one in self.both(x).split(1))
        return torch.cat([F.silu(gate) * up for gate, up in halves])
