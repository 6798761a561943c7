"""The small, fast image tokenizer of the bundled model: residual convolutions without normalisation.

It has no norms, so that a code depends on its patch and a few pixels around it, not on the statistics of the whole
image: the same background gets the same code everywhere. It is also faster.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.interfaces import Reconstruction
from vqdiff.plugins import IMAGE_TOKENIZERS, QUANTIZERS


@dataclass(frozen=True)
class CompactConfig:
    """Level i works at 1/2^(i+1) of the image's size; the last level holds the tokens."""

    image_size: int = 128
    channels: tuple[int, ...] = (64, 128, 256)
    encoder_blocks: tuple[int, ...] = (0, 1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 4)
    quantizer: str = "vq"
    """A name of `vqdiff.plugins.QUANTIZERS`."""
    num_codes: int = 1024
    code_dim: int = 32
    fsq_levels: tuple[int, ...] = ()
    """Non-empty: the quantizer "fsq" with these levels (``num_codes`` = their product)."""
    blank_code: bool = True
    """Reserve code 0 for patches that are plain white, the background of most drawings."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.encoder_blocks) == len(self.decoder_blocks):
            raise InputError("channels, encoder_blocks and decoder_blocks must have one entry per level")
        if self.image_size % self.patch_size:
            raise InputError(f"image_size {self.image_size} is not a multiple of the patch size {self.patch_size}")

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        return 2 ** len(self.channels)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), the second convolution initialised to zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


@IMAGE_TOKENIZERS.add
class CompactTokenizer(nn.Module):
    """Pixels ``(B, 3, H, W)`` in [0, 1] ↔ tokens ``(B, L)``, L = (image_size / patch_size)², row by row."""

    Config = CompactConfig

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens_fixed = False
        self.quantizer = QUANTIZERS.get("fsq" if config.fsq_levels else config.quantizer)(config)
        self.num_codes = self.quantizer.num_codes
        self.grid_size = config.image_size // config.patch_size

        encoder: list[nn.Module] = []
        width = 3
        for level, (channels, blocks) in enumerate(zip(config.channels, config.encoder_blocks, strict=True)):
            kernel = 3 if level == 0 else 1
            encoder += [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, channels, kernel, padding=kernel // 2)]
            encoder += [ResidualBlock(channels) for _ in range(blocks)]
            width = channels
        self.encoder = nn.Sequential(*encoder, nn.ReLU(), nn.Conv2d(width, self.quantizer.dim, 1))

        decoder: list[nn.Module] = [nn.Conv2d(self.quantizer.dim, width, 3, padding=1)]
        for channels, blocks in reversed(list(zip((3, *config.channels), config.decoder_blocks, strict=False))):
            decoder += [ResidualBlock(width) for _ in range(blocks)]
            kernel = 3 if channels == 3 else 1
            up = nn.Conv2d(width, 4 * channels, kernel, padding=kernel // 2)
            decoder += [nn.ReLU(), up, nn.PixelShuffle(2)]
            width = channels
        self.decoder = nn.Sequential(*decoder)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the layer that produces the decoded pixels."""
        last = self.decoder[-2]
        assert isinstance(last, nn.Conv2d)
        return last.weight

    def fix_tokens(self) -> None:
        """Freeze the encoder and the codebook, so that training changes how tokens are decoded but not the tokens."""
        self.tokens_fixed = True
        self.encoder.requires_grad_(False)

    def grow(self, smaller: CompactTokenizer) -> None:
        """Copy the weights of another tokenizer's layers: of layers with equal shapes, the first to the first, etc.

        Blocks that it does not have keep their initial state, nearly the identity. The codebook is not copied.
        """
        for mine, other in ((self.encoder, smaller.encoder), (self.decoder, smaller.decoder)):
            found = _by_shape(other)
            for key, layer in _by_shape(mine).items():
                if key in found:
                    layer.load_state_dict(found[key].state_dict())

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """Encode, quantise with a straight-through gradient, and decode (unclamped, for the loss)."""
        if self.tokens_fixed:
            with torch.no_grad():
                tokens = self.encode(pixels)
            return Reconstruction(self._drawn(tokens), tokens, pixels.new_zeros(()))
        latents, tokens, loss = self.quantizer(self._latents(pixels), self._blank(pixels))
        return Reconstruction(self._pixels(latents), tokens.flatten(1), loss)

    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B L"]:
        """The tokens of images of the configured size."""
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            raise InputError(f"images must be {size} × {size} for this tokenizer, not {tuple(pixels.shape[-2:])}")

        return self.quantizer.encode(self._latents(pixels), self._blank(pixels)).flatten(1)

    def decode(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
        """The images of ``tokens``, values in [0, 1]."""
        return self._drawn(tokens).clamp(0, 1)

    def _drawn(self, tokens: Int[Tensor, "B L"]) -> Tensor:
        grid = tokens.unflatten(1, (self.grid_size, self.grid_size))
        return self._pixels(self.quantizer.decode(grid))

    def _latents(self, pixels: Tensor) -> Float[Tensor, "B h w C"]:
        return self.encoder(pixels * 2 - 1).permute(0, 2, 3, 1).float()

    def _pixels(self, latents: Float[Tensor, "B h w C"]) -> Tensor:
        latents = latents.to(next(self.decoder.parameters()).dtype)
        return (self.decoder(latents.permute(0, 3, 1, 2)).float() + 1) / 2

    def _blank(self, pixels: Tensor) -> Bool[Tensor, "B h w"]:
        """The patches in which every pixel rounds to pure white in 8 bits."""
        return -F.max_pool2d((-pixels).amax(1, keepdim=True), self.config.patch_size).squeeze(1) >= 254.5 / 255


def _by_shape(layers: nn.Sequential) -> dict[tuple[object, ...], nn.Module]:
    """The layers with weights, keyed by the weights' shapes and the number of earlier layers with the same shapes."""
    found, count = dict[tuple[object, ...], nn.Module](), Counter[tuple[object, ...]]()
    for layer in layers:
        if shapes := tuple(weight.shape for weight in layer.parameters()):
            found[*shapes, count[shapes]] = layer
            count[shapes] += 1
    return found
