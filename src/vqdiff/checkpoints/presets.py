"""The published models by name: their architectures, and which of their authors' sampling settings apply."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import VQGAN, VQGANConfig
from vqdiff.model import Model
from vqdiff.presets import PUBLISHED
from vqdiff.settings import SamplingSettings
from vqdiff.text import NullCondition, NullConfig


@dataclass(frozen=True)
class Architecture:
    """The networks of a published model, and whether its null condition is learned."""

    denoiser: ClassicConfig
    image_tokenizer: VQGANConfig
    learned_null: bool = False

    def build(self, device: torch.device | str = "cpu") -> Model:
        """Make the model with initial weights, without its text encoder; on the meta device it takes no memory."""
        config = self.denoiser
        with torch.device(device):
            null = None
            if config.text_width is not None:
                null = NullCondition(NullConfig("learnable" if self.learned_null else "empty", 77, config.text_width))
            return Model(
                Schedule.published(config.num_steps, config.num_codes),
                ClassicDenoiser(config),
                VQGAN(self.image_tokenizer),
                null_condition=null,
                sampling=preset_for(config, learned_null=self.learned_null),
            )


_F16 = VQGANConfig(channel_mult=(1, 1, 2, 2, 4), attention_levels=(4,), codebook_size=1024, num_codes=1024)
_OPENIMAGES = Architecture(ClassicConfig(text_width=512), VQGANConfig(num_codes=2887, gumbel=True))

ARCHITECTURES = {
    "ithq": Architecture(
        ClassicConfig(num_codes=4096, width=1408, depth=36, text_width=512),
        VQGANConfig(channels=64, channel_mult=(1, 2, 4, 8), code_dim=128, codebook_size=4096, num_codes=4096),
        learned_null=True,
    ),
    "coco": _OPENIMAGES,
    "cub200": _OPENIMAGES,
    "cc": _OPENIMAGES,
    "imagenet": Architecture(
        ClassicConfig(num_codes=974, grid_size=16, width=512, depth=24, conv_mlp=True, num_classes=1000),
        VQGANConfig(channel_mult=(1, 1, 2, 2, 4), attention_levels=(4,), codebook_size=16384, num_codes=974),
    ),
    "ffhq": Architecture(ClassicConfig(num_codes=1024, grid_size=16, width=512, depth=20, conv_mlp=True), _F16),
}


def architecture(name: str) -> Architecture:
    """Return the published architecture of that name; InputError lists the names."""
    if name not in ARCHITECTURES:
        raise InputError(f"unknown published model {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def preset_for(config: ClassicConfig, *, learned_null: bool) -> SamplingSettings:
    """Return the preset for a checkpoint of this architecture."""
    found = PUBLISHED["imagenet-guided"] if config.null_class else PUBLISHED["ithq"]
    if config.text_width is not None and learned_null:
        found = PUBLISHED["ithq-guided" if config.num_codes == 4096 else "coco-guided"]
    return replace(found, steps=min(found.steps, config.num_tokens))
