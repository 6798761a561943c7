"""The published models by name: their architectures and their authors' sampling settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import VQGAN, VQGANConfig
from vqdiff.model import Model
from vqdiff.sampling import SamplingSettings
from vqdiff.text import NullCondition, NullConfig

T = TypeVar("T")


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

_PLAIN = SamplingSettings("ancestral", steps=100, guidance=1.0, truncation=0.86)

PRESETS = {
    "ithq": _PLAIN,
    "ithq-guided": SamplingSettings("ancestral", steps=100, guidance=5.0, truncation=1.0),
    "ithq-fast": SamplingSettings("reference-fast", steps=51, guidance=1.0, truncation=0.86),
    "ithq-guided-fast": SamplingSettings("reference-fast", steps=51, guidance=5.0, truncation=1.0),
    "ithq-few": SamplingSettings("reference-fewer-tokens", steps=100, guidance=1.0, truncation=0.86),
    "ithq-purity": SamplingSettings("reference-purity", steps=100, guidance=1.0, truncation=0.86, prior_scale=1.0),
    "coco": _PLAIN,
    "coco-guided": SamplingSettings("ancestral", steps=100, guidance=3.0, truncation=1.0),
    "imagenet": _PLAIN,
    "imagenet-guided": SamplingSettings("ancestral", steps=100, guidance=1.5, truncation=0.94),
    "ffhq": _PLAIN,
}
"""The settings that the published instructions recommend for each model; "guided" ones need a learned null."""


def architecture(name: str) -> Architecture:
    """Return the published architecture of that name; InputError lists the names."""
    return _named(ARCHITECTURES, name, "published model")


def preset_of(name: str) -> SamplingSettings:
    """Return the preset of that name: the published sampling settings; InputError lists the names."""
    return _named(PRESETS, name, "preset")


def preset_for(config: ClassicConfig, *, learned_null: bool) -> SamplingSettings:
    """Return the preset for a checkpoint of this architecture."""
    found = PRESETS["imagenet-guided"] if config.null_class else _PLAIN
    if config.text_width is not None and learned_null:
        found = PRESETS["ithq-guided" if config.num_codes == 4096 else "coco-guided"]
    return replace(found, steps=min(found.steps, config.num_tokens))


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise InputError(f"unknown {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]
