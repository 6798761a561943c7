"""The network of the papers (arXiv 2111.14822, 2205.16007), numerically equal to the published one.

A pre-norm transformer over image tokens whose layer norms are scaled and shifted by the step (and, in the
class-conditional variant, by the class). Work of the published code that does not affect the result is saved: query,
key and value are one matrix, and everything that does not depend on the image tokens is computed once
(:meth:`ClassicDenoiser.prepare`) instead of at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqdiff.denoisers.layers import aligned
from vqdiff.denoisers.token_weights import attention_bias, split_weights
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int
from vqdiff.plugins import DENOISERS


@dataclass(frozen=True)
class ClassicConfig:
    """Sizes of a :class:`ClassicDenoiser`; with neither text nor classes it is unconditional."""

    num_codes: int = 2887
    num_steps: int = 100
    grid_size: int = 32
    """Tokens per side: L = grid_size²."""
    width: int = 1024
    depth: int = 19
    heads: int = 16
    mlp_ratio: int = 4
    conv_mlp: bool = False
    """Use 3×3 convolutions over the token grid instead of the two linear layers."""
    text_width: int | None = None
    num_classes: int | None = None
    null_class: bool = False
    """The class tables end with a learned row for "no class"; without it, the mean of their rows is used."""
    position_rows: int = 32
    position_columns: int = 32
    """Shape of the position table, whose first L entries, row by row, belong to the L tokens. The published 16 × 16
    models have a 32 × 32 table: their token n = 16r + c uses row n // 32 and column n % 32."""

    def __post_init__(self) -> None:
        if self.text_width is not None and self.num_classes is not None:
            raise InputError("a classic denoiser takes text or classes, not both")
        if self.width % self.heads:
            raise InputError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.num_tokens > self.position_rows * self.position_columns:
            table = f"{self.position_rows} × {self.position_columns}"
            raise InputError(f"{self.num_tokens} tokens do not fit a position table of {table}: enlarge the table")

    @property
    def num_tokens(self) -> int:
        """L, image tokens per image."""
        return self.grid_size**2


class PreparedText(NamedTuple):
    """The part of a layer's cross-attention that does not depend on the image tokens."""

    steps: Float[Tensor, "T twoD"]
    keys: Float[Tensor, "B H N d"]
    values: Float[Tensor, "B H N d"]


class PreparedBlock(NamedTuple):
    """What a layer computes without the image tokens: scales and shifts of its norms, keys and values of the text."""

    steps: Float[Tensor, "T twoD"]
    text: PreparedText | None
    label: Float[Tensor, "B twoD"] | None


@dataclass(frozen=True)
class ClassicCondition:
    """A condition prepared by :meth:`ClassicDenoiser.prepare`; valid until the weights change."""

    blocks: tuple[PreparedBlock, ...]
    bias: Float[Tensor, "B 1 1 N"] | None = None
    """Added to the scores of text keys (`attention_bias`); None if no text of the batch is weighted."""

    def select(self, rows: Sequence[int]) -> ClassicCondition:
        """Return the rows of the images with these indices, in this order."""
        return _per_image(lambda values: values[list(rows)], self)

    def join(self, *others: ClassicCondition) -> ClassicCondition:
        """Return the rows of these images followed by those of ``others``, from the same denoiser."""
        return _per_image(lambda *parts: torch.cat(parts), self, *others)

    def one(self, row: int) -> ClassicCondition:
        """Return the row of a single image, copied only if its address requires it."""
        return _per_image(lambda values: aligned(values[row : row + 1]), self)


def _per_image(change: Callable[..., Tensor], *contexts: ClassicCondition) -> ClassicCondition:
    """Apply ``change`` to every tensor that has one row per image."""
    blocks = list[PreparedBlock]()
    for layer in zip(*(one.blocks for one in contexts), strict=True):
        steps, text, label = layer[0]
        if text is not None:
            keys, values = (change(*(getattr(one.text, name) for one in layer)) for name in ("keys", "values"))
            text = PreparedText(text.steps, keys, values)
        blocks.append(PreparedBlock(steps, text, None if label is None else change(*(one.label for one in layer))))
    biased = any(one.bias is not None for one in contexts)
    return ClassicCondition(tuple(blocks), _or_none(change(*map(_full_bias, contexts))) if biased else None)


def _full_bias(context: ClassicCondition) -> Tensor:
    keys = cast("PreparedText", context.blocks[0].text).keys
    return keys.new_zeros(len(keys), 1, 1, keys.shape[2]) if context.bias is None else context.bias


def _or_none(bias: Tensor) -> Tensor | None:
    """None for zeros, so that an image is computed in the same way beside weighted ones and alone."""
    return bias if bias.any() else None


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift come from an embedding (AdaLN of arXiv 2111.14822)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width)
        self.linear = nn.Linear(width, 2 * width)

    def table(self) -> Float[Tensor, "rows twoD"]:
        """Scale and shift, side by side, of every row of the embedding."""
        return self.modulation(self.embedding.weight)

    def modulation(self, embedded: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoD"]:
        """Scale and shift, side by side, of embedded rows."""
        return self.linear(F.silu(embedded))

    def forward(self, x: Float[Tensor, "B L D"], modulation: Float[Tensor, "B twoD"]) -> Float[Tensor, "B L D"]:
        """Normalise each token, scale by 1 + scale, shift."""
        scale, shift = modulation[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def split_heads(x: Float[Tensor, "B L D"], heads: int) -> Float[Tensor, "B H L d"]:
    """Split the features into heads and move these before the sequence, as torch's attention expects."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention among the image tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The attention output of each token."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from the image tokens to all text tokens, padding included."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(text_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, text: Float[Tensor, "B N C"]) -> list[Float[Tensor, "B H N d"]]:
        """Keys and values: the part of the attention that depends only on the text."""
        return [split_heads(part, self.heads) for part in self.kv(text).chunk(2, dim=-1)]

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        keys: Float[Tensor, "B H N d"],
        values: Float[Tensor, "B H N d"],
        bias: Float[Tensor, "B 1 1 N"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The attention output of each image token, from the keys and values of :meth:`keys_values`."""
        q = split_heads(self.q(x), self.heads)
        return self.out(F.scaled_dot_product_attention(q, keys, values, bias).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Widen, x·σ(1.702x), narrow: token by token, or by 3×3 convolutions over the token grid."""

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__()
        self.grid = (config.grid_size, config.grid_size) if config.conv_mlp else None
        layer = partial(nn.Conv2d, kernel_size=3, padding=1) if config.conv_mlp else nn.Linear
        self.widen = layer(config.width, config.mlp_ratio * config.width)
        self.narrow = layer(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The residual for each token."""
        if self.grid is not None:
            x = x.transpose(1, 2).unflatten(2, self.grid)
        x = self.widen(x)
        x = self.narrow(x * torch.sigmoid(1.702 * x))
        return x if self.grid is None else x.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, cross-attention if there is text, MLP: each a residual branch on the normalised input."""

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__()
        self.self_norm = AdaptiveNorm(config.num_steps, config.width)
        self.self_attention = SelfAttention(config.width, config.heads)
        if config.text_width is not None:
            self.cross_norm = AdaptiveNorm(config.num_steps, config.width)
            self.cross_attention = CrossAttention(config.width, config.heads, config.text_width)
        if config.num_classes is not None:
            self.null_class = config.null_class
            self.mlp_norm = AdaptiveNorm(config.num_classes + config.null_class, config.width)
        else:
            self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def class_rows(self) -> Float[Tensor, "rows D"]:
        """The embedding of each class, with "no class" last."""
        rows = cast("AdaptiveNorm", self.mlp_norm).embedding.weight
        return rows if self.null_class else torch.cat([rows, rows.mean(0, keepdim=True)])

    def prepare(self, condition: Tensor | None) -> PreparedBlock:
        """See :meth:`ClassicDenoiser.prepare`."""
        text = label = None
        if condition is not None and isinstance(self.mlp_norm, AdaptiveNorm):
            label = self.mlp_norm.modulation(F.embedding(condition, self.class_rows()))
        elif condition is not None:
            text = PreparedText(self.cross_norm.table(), *self.cross_attention.keys_values(condition))
        return PreparedBlock(self.self_norm.table(), text, label)

    def forward(
        self, x: Float[Tensor, "B L D"], t: Int[Tensor, " B"], prepared: PreparedBlock, bias: Tensor | None = None
    ) -> Tensor:
        """The features after this layer, at steps ``t`` in 1..T; ``bias`` is added to the scores of text keys."""
        step, text, label = prepared
        # F.embedding, not indexing: it rejects t = 0, which would silently mean t = T.
        x = x + self.self_attention(self.self_norm(x, F.embedding(t - 1, step)))
        if text is not None:
            normed = self.cross_norm(x, F.embedding(t - 1, text.steps))
            x = x + self.cross_attention(normed, text.keys, text.values, bias)
        normed = self.mlp_norm(x) if label is None else self.mlp_norm(x, label)
        return x + self.mlp(normed)


@DENOISERS.add
class ClassicDenoiser(nn.Module):
    """Logits of p(x0 | xt, condition), by the published network.

    Depending on the configuration, the condition is text features ``(B, N, C)``, with the tokens' weights in a column
    more or not, class labels ``(B,)`` with ``num_classes`` for "no class", or None.
    """

    Config = ClassicConfig
    takes_token_weights = True

    def __init__(self, config: ClassicConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether training recomputes activations inside the blocks instead of storing them: slower, less memory."""
        self.token_embedding = nn.Embedding(config.num_codes + 1, config.width)
        self.row_embedding = nn.Embedding(config.position_rows, config.width)
        self.column_embedding = nn.Embedding(config.position_columns, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_codes)
        self.apply(_initialise)

    def prepare(self, condition: Float[Tensor, "B N C"] | Int[Tensor, " B"] | None) -> ClassicCondition:
        """Compute once, for all steps of an image, what does not depend on the image tokens.

        The result can be passed instead of the condition and gives the same logits.
        """
        self._check(condition)
        bias = None
        if condition is not None and self.config.text_width is not None:
            condition, weights = split_weights(condition, self.config.text_width)
            condition = condition.to(self.head.weight.dtype)
            bias = None if weights is None else _or_none(attention_bias(weights).to(condition.dtype))
        return ClassicCondition(tuple(cast("Block", block).prepare(condition) for block in self.blocks), bias)

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        t: Int[Tensor, " B"],
        condition: Float[Tensor, "B N C"] | Int[Tensor, " B"] | ClassicCondition | None = None,
    ) -> Float[Tensor, "B L K"]:
        """Logits for x0, codes last, of noisy ``tokens`` (0..K, K = MASK) at steps ``t`` (1..T).

        Raises InputError if the tokens or the condition do not have the shape this network was built for.
        """
        return self.logits(self.features(tokens, t, condition))

    def features(
        self,
        tokens: Int[Tensor, "B L"],
        t: Int[Tensor, " B"],
        condition: Float[Tensor, "B N C"] | Int[Tensor, " B"] | ClassicCondition | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Everything but the head, which can then be evaluated at some positions only."""
        if tokens.shape[1] != self.config.num_tokens:
            raise InputError(f"this denoiser takes {self.config.num_tokens} tokens per image, got {tokens.shape[1]}")
        prepared = condition if isinstance(condition, ClassicCondition) else self.prepare(condition)
        x = self.token_embedding(tokens) + self._positions()
        for block, ready in zip(self.blocks, prepared.blocks, strict=True):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, t, ready, prepared.bias, use_reentrant=False)
            else:
                x = block(x, t, ready, prepared.bias)
        return x

    def logits(self, features: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows K"]:
        """The head: logits of x0 at positions with these features."""
        return self.head(self.head_norm(features))

    def with_null_class(self) -> ClassicDenoiser:
        """Return this network with a learnable row for "no class", initialised with its substitute; or itself."""
        if self.config.num_classes is None or self.config.null_class:
            return self
        grown = ClassicDenoiser(replace(self.config, null_class=True))
        state = self.state_dict()
        for name in grown.state_dict():
            if name.endswith("mlp_norm.embedding.weight"):
                state[name] = torch.cat([state[name], state[name].mean(0, keepdim=True)])
        grown.load_state_dict(state)
        return grown

    def _positions(self) -> Float[Tensor, "L D"]:
        table = self.row_embedding.weight[:, None] + self.column_embedding.weight
        return table.flatten(0, 1)[: self.config.num_tokens]

    def _check(self, condition: Tensor | None) -> None:
        got = "None" if condition is None else f"{condition.dtype} of shape {tuple(condition.shape)}"
        if self.config.text_width is not None:
            wanted, width = f"text features (B, N, {self.config.text_width})", self.config.text_width
            right = condition is not None and condition.ndim == 3 and condition.shape[2] in (width, width + 1)
        elif self.config.num_classes is not None:
            wanted = f"class labels (B,) in 0..{self.config.num_classes}, the last for no class"
            right = condition is not None and condition.ndim == 1
        else:
            wanted, right = "no condition", condition is None
        if not right:
            raise InputError(f"this denoiser takes {wanted}, got {got}")


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) weights and zero biases, as published (convolutions keep torch's own)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
