"""The models to measure: architectures of published sizes with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from vqdiff.bench import Dtype
from vqdiff.checkpoints import to_diffusers
from vqdiff.checkpoints.clip import VOCABULARY, openai_tokenizer
from vqdiff.checkpoints.presets import Architecture, architecture
from vqdiff.denoisers import ClassicConfig
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.profiling import count_flops
from vqdiff.image_tokenizers import VQGANConfig
from vqdiff.model import Model
from vqdiff.text import ClipTextEncoder

TEXT_TOKENS = 77
_SMALL = Architecture(
    ClassicConfig(
        1024, grid_size=16, width=256, depth=12, heads=4, text_width=512, position_rows=16, position_columns=16
    ),
    VQGANConfig(64, 32, (1, 2, 4), 1, (2,), 64, 64, codebook_size=1024, num_codes=1024),
    learned_null=True,
)


def random_architecture(name: str) -> Architecture:
    """Return the architecture of the size small, coco or ithq."""
    return _SMALL if name == "small" else architecture(name)


def random_model(sizes: Architecture) -> Model:
    """Make the model with fixed random weights, and a CLIP text encoder of its text width and ViT-B/32's depth."""
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    model, width = sizes.build(), sizes.denoiser.text_width
    assert width is not None
    settings = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=max(width // 64, 1),
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
    )
    model.text_encoder = ClipTextEncoder(CLIPTextModel(settings), openai_tokenizer())
    if model.null_condition is not None and not sizes.learned_null:
        model.null_condition.set_empty(model.text_encoder)
    return model


def write_random(sizes: Architecture, folder: Path, dtypes: dict[str, Dtype]) -> dict[str, Path]:
    """Write one random model as a folder for each named program: a model folder for vqdiff, else a diffusers folder.

    Raises InputError if the disk has too little space.
    """
    meta = sizes.build("meta")
    numbers = sum(value.numel() for part in (meta.denoiser, meta.image_tokenizer) for value in part.parameters())
    needed = numbers * sum(getattr(torch, dtype).itemsize for dtype in dtypes.values())
    if needed > shutil.disk_usage(folder).free * 0.95:
        raise InputError(
            f"{folder} has no space for {needed / 1e9:.1f} GB of random weights: set TMPDIR to another folder"
        )
    model = random_model(sizes)
    folders = {name: folder / name for name in dtypes}
    for name, path in folders.items():
        dtype = getattr(torch, dtypes[name])
        if name == "vqdiff":
            model.save(path, dtype)
        else:
            to_diffusers.write(model, path, dtype)
    return folders


def step_flops(model: Model, *, guided: bool) -> int:
    """Operations of the denoiser in one step of one image, without what can be computed once for all its steps.

    The model may be on the meta device, where this costs nothing.
    """
    rows = 1 + guided
    with torch.device(model.device), torch.no_grad():
        prepared = model.denoiser.prepare(model.null(rows))
        tokens, t = torch.zeros(rows, model.num_tokens, dtype=torch.int64), torch.ones(rows, dtype=torch.int64)
        return count_flops(lambda: model.denoiser(tokens, t, prepared))
