"""The denoiser for new models: RMSNorm, SwiGLU, QK-norm, 2-D RoPE, adaLN-zero shared by all layers, fused QKV.

Text enters twice: its tokens are extra keys and values of every self-attention, and their mean is added to the time
embedding. Both are computed once per image by :meth:`ModernDenoiser.prepare`.

Shapes: B images, L tokens on a square grid, P = L / patch_size² transformer positions, D width, H heads, N text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqdiff.denoisers.layers import aligned
from vqdiff.denoisers.token_weights import attention_bias, split_weights
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int, Shaped
from vqdiff.plugins import DENOISERS

_FIRST_BLOCKS = 2
"""Those that no position skips, beside the last one."""


@dataclass(frozen=True)
class ModernConfig:
    """Sizes of a :class:`ModernDenoiser`; with neither text nor classes it is unconditional."""

    num_codes: int
    num_steps: int
    """T, the noisiest step."""
    grid_size: int = 16
    """Tokens per side; L is its square."""
    width: int = 320
    depth: int = 8
    heads: int = 5
    patch_size: int = 2
    """Tokens per side that share one transformer position, as in DiT: 2 makes every layer four times cheaper."""
    token_width: int = 256
    """Width of the embedding and of the features before the head, per token."""
    text_width: int | None = None
    num_classes: int | None = None
    """Number of labels; label ``num_classes`` is the null condition."""

    def __post_init__(self) -> None:
        if self.grid_size % self.patch_size:
            raise InputError(f"grid_size {self.grid_size} is not a multiple of patch_size {self.patch_size}")
        if self.width % (4 * self.heads):
            raise InputError(f"width {self.width} must be a multiple of 4 × heads = {4 * self.heads}")
        if self.text_width is not None and self.num_classes is not None:
            raise InputError("a denoiser takes text or classes, not both")


class ModernCondition(NamedTuple):
    """What does not change between steps: the condition's keys and values per layer, their mask, and vectors."""

    times: Float[Tensor, "steps D"]
    """The embedding of every t."""
    keys: tuple[Float[Tensor, "B H N C"], ...]
    values: tuple[Float[Tensor, "B H N C"], ...]
    bias: Float[Tensor, "B 1 1 N"] | None
    """Added to the scores of text keys: 0, −inf for padding, or that of a weight (`attention_bias`)."""
    vector: Float[Tensor, "B D"] | None

    def select(self, rows: Sequence[int]) -> ModernCondition:
        """Return the rows of the images with these indices, in this order."""
        return _per_image(lambda values: values[list(rows)], self)

    def join(self, *others: ModernCondition) -> ModernCondition:
        """Return the rows of these images followed by those of ``others``, from the same denoiser."""
        return _per_image(lambda *parts: torch.cat(parts), self, *others)

    def one(self, row: int) -> ModernCondition:
        """Return the row of a single image, copied only if its address requires it."""
        return _per_image(lambda values: aligned(values[row : row + 1]), self)


def _per_image(change: Callable[..., Tensor], *contexts: ModernCondition) -> ModernCondition:
    """Apply ``change`` to every tensor that has one row per image."""
    first = contexts[0]
    return ModernCondition(
        first.times,
        tuple(map(change, *(one.keys for one in contexts))),
        tuple(map(change, *(one.values for one in contexts))),
        None if first.bias is None else change(*(one.bias for one in contexts)),
        None if first.vector is None else change(*(one.vector for one in contexts)),
    )


@DENOISERS.add
class ModernDenoiser(nn.Module):
    """``(tokens (B, L), t (B,), condition) -> logits (B, L, K)``, tokens 0..K with K = MASK, t in 1..T.

    The condition is text features ``(B, N, C)`` whose all-zero rows are padding, with the tokens' weights in a column
    more or not, labels ``(B,)``, ``None``, or the result of :meth:`prepare` for one of these.
    """

    Config = ModernConfig
    takes_token_weights = True
    skipped: Collection[int] = ()
    """The numbers of the blocks that are left out."""
    rope: Tensor

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether training recomputes activations inside the blocks instead of storing them: slower, less memory."""
        width, patch = config.width, config.patch_size**2
        self.token_embedding = nn.Embedding(config.num_codes + 1, config.token_width)
        self.merge = nn.Linear(patch * config.token_width, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.split = nn.Linear(width, patch * config.token_width)
        self.head_norm = RMSNorm(config.token_width)
        self.head = nn.Linear(config.token_width, config.num_codes)
        if config.text_width is not None:
            self.text_norm = RMSNorm(config.text_width)
            self.text_keys_values = nn.Linear(config.text_width, config.depth * 2 * width, bias=False)
            self.text_vector = nn.Linear(config.text_width, width)
        if config.num_classes is not None:
            self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        side = config.grid_size // config.patch_size
        self.register_buffer("rope", rotations(side, width // config.heads), persistent=False)
        self.apply(_initialise)
        for linear in (self.modulation, self.final_modulation):
            nn.init.zeros_(linear.weight)

    def prepare(self, condition: Tensor | None) -> ModernCondition:
        """Compute what a condition contributes to all steps alike."""
        config = self.config
        if (condition is None) != (config.text_width is None and config.num_classes is None):
            raise InputError("this denoiser takes " + ("a" if condition is None else "no") + " condition")
        times = self.times()
        if condition is None:
            return ModernCondition(times, (), (), None, None)
        if config.num_classes is not None:
            return ModernCondition(times, (), (), None, self.class_embedding(condition))
        assert config.text_width is not None
        condition, weights = split_weights(condition, config.text_width)
        present = condition.ne(0).any(-1)
        features = self.text_norm(condition.to(self.head.weight.dtype))
        copies = present if weights is None else present * weights.square()
        total = copies.sum(1, keepdim=True)
        share = copies / total.masked_fill(total == 0, 1)
        vector = self.text_vector((features * share[..., None]).sum(1).to(features.dtype))
        both = self.text_keys_values(features).unflatten(-1, (2 * config.depth, config.heads, -1))
        keys, values = both.permute(2, 0, 3, 1, 4).chunk(2)
        keys = torch.stack([cast("Block", block).prepare(k) for block, k in zip(self.blocks, keys, strict=True)])
        bias = torch.zeros(present.shape, device=present.device).masked_fill(~present, -math.inf)
        bias = bias[:, None, None] if weights is None else bias[:, None, None] + attention_bias(weights)
        return ModernCondition(times, tuple(keys.to(values.dtype)), tuple(values), bias, vector)

    def times(self) -> Float[Tensor, "steps D"]:
        """The embedding of every t."""
        t = torch.arange(self.config.num_steps + 1, device=self.head.weight.device)
        return self.time(frequencies(t / self.config.num_steps, 256).to(self.head.weight.dtype))

    @property
    def num_positions(self) -> int:
        """P, the positions of the transformer."""
        return self.rope.shape[1]

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        t: Int[Tensor, "B"],
        condition: Tensor | ModernCondition | None = None,
        through: Int[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B L K"]:
        """Logits of x0 given x_t; see the class.

        through: the positions that pass through all blocks, in any order, for training (TREAD, 2501.04765). The others
        skip the middle blocks, all but the first two and the last.
        """
        return self.logits(self.features(tokens, t, condition, through))

    def features(
        self,
        tokens: Int[Tensor, "B L"],
        t: Int[Tensor, "B"],
        condition: Tensor | ModernCondition | None = None,
        through: Int[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B L E"]:
        """Everything but the head, which can then be evaluated at some positions only."""
        context = condition if isinstance(condition, ModernCondition) else self.prepare(condition)
        vector = self._vector(context, t)
        modulation = self.modulation(vector).unflatten(-1, (6, -1))

        x = whole = self._embed(tokens)
        rope = self.rope
        for index, block in enumerate(self.blocks):
            if index in self.skipped:
                continue
            if through is not None and index == _FIRST_BLOCKS:
                whole, x, rope = x, x.gather(1, _wide(through, x)), rope[:, through]
            if through is not None and index == self.config.depth - 1:
                x, rope = whole.scatter(1, _wide(through, x), x.to(whole.dtype)), self.rope
            text = (context.keys[index], context.values[index], context.bias) if context.keys else None
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, rope, text, use_reentrant=False)
            else:
                x = block(x, modulation, rope, text)
        scale, shift = self.final_modulation(vector).chunk(2, -1)
        return self._to_tokens(self.split(modulate(x, scale, shift)))

    def logits(self, features: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows K"]:
        """The head: logits of x0 at positions with these features."""
        return self.head(self.head_norm(features))

    def skipping_layers(self) -> ModernDenoiser | None:
        """Return this network, with the same weights, without its middle block, or two if their number is even.

        It takes the conditions that this network has prepared. None with fewer than three blocks.
        """
        depth = self.config.depth
        if depth < 3:
            return None
        other = copy(self)
        other.skipped = ((depth - 1) // 2, depth // 2)
        return other

    def _vector(self, context: ModernCondition, t: Int[Tensor, "B"]) -> Float[Tensor, "B 1 D"]:
        """The embedding of time and condition that all norms are modulated by."""
        vector = context.times[t]
        return F.silu(vector if context.vector is None else vector + context.vector)[:, None]

    def _embed(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B P D"]:
        return self.merge(self._to_patches(self.token_embedding(tokens)))

    def _to_patches(self, x: Shaped[Tensor, "B L E"]) -> Shaped[Tensor, "B P F"]:
        p = self.config.patch_size
        side = self.config.grid_size // p
        return x.unflatten(1, (side, p, side, p)).permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], side * side, -1)

    def _to_tokens(self, x: Float[Tensor, "B P F"]) -> Float[Tensor, "B L E"]:
        p = self.config.patch_size
        side = self.config.grid_size // p
        x = x.view(x.shape[0], side, side, p, p, -1).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(x.shape[0], self.config.grid_size**2, -1)


class Block(nn.Module):
    """Self-attention that also sees the text, then SwiGLU; both gated and modulated (adaLN-zero)."""

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        hidden = 64 * round(width * 8 / 3 / 64)
        self.offsets = nn.Parameter(torch.zeros(6, width))
        """This layer's own addition to the modulation that all layers share."""
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(width // config.heads)
        self.key_norm = RMSNorm(width // config.heads)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def prepare(self, keys: Float[Tensor, "B H N C"]) -> Float[Tensor, "B H N C"]:
        """This layer's keys of the text."""
        return self.key_norm(keys)

    def forward(
        self, x: Tensor, modulation: Tensor, rope: Tensor, text: tuple[Tensor, Tensor, Tensor | None] | None
    ) -> Float[Tensor, "B P D"]:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.offsets.to(modulation.dtype)).unbind(-2)
        qk, v = self.qkv(modulate(x, scale1, shift1)).unflatten(-1, (3, self.heads, -1)).tensor_split((2,), 2)
        weights = torch.stack([self.query_norm.weight, self.key_norm.weight]).to(qk.dtype)
        qk = rotate(F.rms_norm(qk, qk.shape[-1:]) * weights[:, None], rope[..., None, None, :]).to(v.dtype)
        (q, k), v = qk.permute(2, 0, 3, 1, 4), v[:, :, 0].transpose(1, 2)
        bias = None
        if text is not None:
            keys, values, text_bias = text
            k, v = torch.cat([k, keys], 2), torch.cat([v, values], 2)
            if text_bias is not None:
                bias = F.pad(text_bias, (x.shape[1], 0)).to(q.dtype)
        x = torch.addcmul(x, gate1, self.out(attention(q, k, v, bias).transpose(1, 2).flatten(2)))
        gate, up = self.up(modulate(x, scale2, shift2)).chunk(2, -1)
        return torch.addcmul(x, gate2, self.down(F.silu(gate) * up))


class RMSNorm(nn.Module):
    """nn.RMSNorm whose weight is cast to the dtype of its input, which is faster with autocast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:]) * self.weight.to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention; written out on a CPU, where this is up to three times as fast in bf16."""
    if not q.is_cpu:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """RMS-normalised x, scaled by 1 + scale and shifted."""
    return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:]), 1 + scale)


def frequencies(t: Float[Tensor, "B"], width: int) -> Float[Tensor, "B F"]:
    """Sinusoidal features of t in [0, 1]."""
    rates = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=t.device))
    angles = t[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def rotations(side: int, width: int) -> Float[Tensor, "2 P C"]:
    """Cosines and sines of 2-D rotary embeddings: half of the channel pairs rotate with rows, half with columns."""
    rates = 100.0 ** -torch.linspace(0, 1, width // 4)
    steps = torch.arange(side, device=rates.device)[:, None] * rates
    rows = steps[:, None].expand(side, side, -1)
    columns = steps[None].expand(side, side, -1)
    angles = torch.cat([rows, columns], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()]).repeat(1, 1, 2)


def rotate(x: Float[Tensor, "*shape C"], rope: Float[Tensor, "2 *broadcast C"]) -> Float[Tensor, "*shape C"]:
    """Rotate channel pairs (c, c + C/2) by the angle of their position."""
    cos, sin = rope.to(x.dtype)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _wide(positions: Int[Tensor, "B Q"], x: Shaped[Tensor, "B P D"]) -> Int[Tensor, "B Q D"]:
    return positions[..., None].expand(-1, -1, x.shape[-1])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
