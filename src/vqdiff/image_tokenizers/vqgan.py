"""The convolutional tokenizer of the published models (VQGAN, Esser et al. 2021, arXiv 2012.09841).

One architecture covers all four published codecs: ITHQ (f8), OpenImages with the Gumbel projection (f8), ImageNet and
FFHQ (f16). It can also be trained, except with the Gumbel projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int
from vqdiff.interfaces import Quantized, Reconstruction
from vqdiff.plugins import IMAGE_TOKENIZERS


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a :class:`VQGAN`; level i works at 1/2^i of the image's size, the last level holds the tokens."""

    image_size: int = 256
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 4)
    num_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    attention_levels: tuple[int, ...] = (3,)
    latent_channels: int = 256
    code_dim: int = 256
    codebook_size: int = 8192
    num_codes: int = 8192
    """Codes of the diffusion model; if fewer than ``codebook_size``, a table maps many codes to one."""
    gumbel: bool = False
    """Codes are chosen by a learned projection (arg-max of its logits), not by distance."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InputError(f"image_size {self.image_size} is not a multiple of the patch size {self.patch_size}")
        if self.num_codes > self.codebook_size:
            raise InputError(f"num_codes {self.num_codes} is more than the codebook has, {self.codebook_size}")

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * factor for factor in self.channel_mult)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x))))), with a 1×1 convolution on x where the width changes."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Features of the same size, ``out_channels`` wide."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """x + single-head attention among all positions of norm(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Features of the same size and width."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(1, 2).view_as(x))


class Downsample(nn.Module):
    """Halve the size by a strided 3×3 convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Features of half the size."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the size by repeating pixels, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """Features of twice the size."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if enabled, then a change of size."""

    def __init__(self, widths: Sequence[int], attention: bool, resize: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(c, d) for c, d in pairwise(widths))
        self.attentions = nn.ModuleList(SpatialAttention(d) if attention else nn.Identity() for d in widths[1:])
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        """Features after all blocks, resized."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x))
        return self.resize(x)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, channels), SpatialAttention(channels), ResidualBlock(channels, channels)
    )


class Encoder(nn.Module):
    """Pixels to latents, halving the size after every level but the last."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.levels = nn.Sequential(
            *(
                Level(
                    [before] + [width] * config.num_blocks,
                    level in config.attention_levels,
                    Downsample(width) if level < last else nn.Identity(),
                )
                for level, (before, width) in enumerate(pairwise((config.channels, *widths)))
            )
        )
        self.middle = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images with values in [−1, 1]."""
        x = self.middle(self.levels(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents to pixels, doubling the size after every level but the last; levels are in the order they run."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.middle = _middle(widths[-1])
        self.levels = nn.Sequential(
            *(
                Level(
                    [widths[min(level + 1, last)]] + [widths[level]] * (config.num_blocks + 1),
                    level in config.attention_levels,
                    Upsample(widths[level]) if level > 0 else nn.Identity(),
                )
                for level in reversed(range(len(widths)))
            )
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images with values in about [−1, 1], not clamped yet."""
        x = self.levels(self.middle(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    """The code of a latent is the nearest one, or the arg-max of a learned projection.

    The Gumbel codec sampled from its projection even at inference; the arg-max gives an image the same tokens
    every time. Published models have fewer classes than codes: unused codes share class 0.
    """

    class_of: Tensor
    code_of: Tensor

    commitment = 0.25

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.codes = nn.Embedding(config.codebook_size, config.code_dim)
        nn.init.uniform_(self.codes.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        self.projection = nn.Linear(config.code_dim, config.codebook_size) if config.gumbel else None
        codes = torch.arange(config.codebook_size)
        self.register_buffer("class_of", codes * (codes < config.num_codes))
        self.register_buffer("code_of", codes[: config.num_codes].clone())

    def encode(self, latents: Float[Tensor, "B L D"]) -> Int[Tensor, "B L"]:
        """The class of each latent."""
        if self.projection is not None:
            scores = self.projection(latents)
        else:
            # argmin |z − e|² = argmax z·e − |e|²/2
            scores = F.linear(latents, self.codes.weight, -0.5 * self.codes.weight.square().sum(1))
        return self.class_of[scores.argmax(-1)]

    def decode(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """The codebook entry of each class; of several codes in a class, the first."""
        return self.codes(self.code_of[tokens])

    def forward(self, latents: Float[Tensor, "B L D"]) -> Quantized:
        """Quantise with a straight-through gradient; the loss pulls codes and latents together (VQGAN, Eq. 4).

        Raises InputError for the Gumbel projection, which passes no gradient.
        """
        if self.projection is not None:
            raise InputError("a Gumbel codebook can be used but not trained: set gumbel = false")
        tokens = self.encode(latents.detach())
        codes = self.decode(tokens).float()
        loss = F.mse_loss(codes, latents.detach().float())
        loss = loss + self.commitment * F.mse_loss(latents.float(), codes.detach())
        return Quantized(latents + (codes.detach() - latents).detach(), tokens, loss)


@IMAGE_TOKENIZERS.add
class VQGAN(nn.Module):
    """Pixels ``(B, 3, H, W)`` in [0, 1] ↔ tokens ``(B, L)``, L = (image_size / patch_size)², row by row."""

    Config = VQGANConfig

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens_fixed = False
        self.num_codes = config.num_codes
        self.grid_size = config.image_size // config.patch_size
        self.encoder = Encoder(config)
        self.to_code = nn.Conv2d(config.latent_channels, config.code_dim, 1)
        self.codebook = Codebook(config)
        self.from_code = nn.Conv2d(config.code_dim, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the layer that produces the decoded pixels."""
        return self.decoder.conv_out.weight

    def fix_tokens(self) -> None:
        """Freeze the encoder and the codebook, so that training changes how tokens are decoded but not the tokens."""
        self.tokens_fixed = True
        for part in (self.encoder, self.to_code, self.codebook):
            part.requires_grad_(False)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """Encode, quantise with a straight-through gradient, decode."""
        if self.tokens_fixed:
            tokens = self.encode(pixels)
            return Reconstruction(self._pixels(self.codebook.decode(tokens)), tokens, pixels.new_zeros(()))
        codes, tokens, loss = self.codebook(self.latents(pixels).flatten(2).transpose(1, 2))
        return Reconstruction(self._pixels(codes), tokens, loss)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B L"]:
        """The tokens of images of the configured size; InputError for any other size."""
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            raise InputError(f"this tokenizer takes {size} × {size} images, got {tuple(pixels.shape)}: resize them")
        return self.codebook.encode(self.latents(pixels).flatten(2).transpose(1, 2))

    def latents(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """The encoder's output, which the codebook quantises: one vector per token."""
        return self.to_code(self.encoder(pixels * 2 - 1))

    def decode(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
        """The images of ``tokens``, values in [0, 1]."""
        return self._pixels(self.codebook.decode(tokens)).clamp(0, 1)

    def _pixels(self, codes: Float[Tensor, "B L D"]) -> Float[Tensor, "B 3 H W"]:
        grid = codes.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        latents = self.from_code(grid).to(self.last_layer.dtype)
        return (self.decoder(latents).float() + 1) / 2
