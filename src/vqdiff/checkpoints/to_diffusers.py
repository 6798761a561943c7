"""Write a model as a folder of diffusers' ``VQDiffusionPipeline``, in the layout of 2022.

Current diffusers loads the parts one by one; the pipeline as a whole loads up to 0.24.0, but not since 0.25.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vqdiff.checkpoints.diffusers import CODEC, DENOISER_NAMES, NULL_FOLDER, TRANSFORMER, block_types, codec_names
from vqdiff.checkpoints.reading import scatter
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.image_tokenizers import VQGAN, VQGANConfig
from vqdiff.interfaces import Denoiser
from vqdiff.model import Model
from vqdiff.text import ClipTextEncoder, NullCondition

_VERSION = "0.8.0"  # the first release with a learned null condition, whose layout this is
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CLIP = ("hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings")
_CLIP += ("num_attention_heads", "num_hidden_layers", "projection_dim", "vocab_size")


def write(model: Model, folder: Path, dtype: torch.dtype | None = None) -> list[str]:
    """Write ``model`` as a diffusers folder, its networks as ``dtype`` if given; return what is lost, one line each.

    Raises InputError for a model that diffusers cannot represent: it must be a classic text model with CLIP.
    """
    denoiser, codec, encoder = _representable(model.denoiser), model.image_tokenizer, model.text_encoder
    if not isinstance(codec, VQGAN):
        raise InputError(
            f"diffusers' pipeline needs a VQGAN to decode images, and this model has a {type(codec).__name__}"
        )
    if not isinstance(encoder, ClipTextEncoder) or encoder.tokenizer is None:
        raise InputError("diffusers' pipeline needs CLIP with its vocabulary, which this model does not have")
    lost = [] if model.weaker_denoiser is None else ["the weaker denoiser"]
    if codec.config.gumbel or codec.config.num_codes < codec.config.codebook_size:
        lost.append("the codec's mapping of pixels to tokens: diffusers' VQModel takes the nearest of the codes in use")
    if model.masked_nll:
        lost.append("the measurement for the reveal curve measured")
    with atomic_path(folder) as path:
        _part(path / "transformer", _transformer_config(denoiser.config), scatter(denoiser, DENOISER_NAMES), dtype)
        _part(path / "vqvae", _codec_config(codec.config), _codec_state(codec), dtype)
        _part(path / NULL_FOLDER, *_null(model.null_condition), dtype)
        _json(path / "scheduler" / "scheduler_config.json", _scheduler(model.schedule))
        _text_encoder(encoder, path)
        library = {"scheduler": "VQDiffusionScheduler", "transformer": "Transformer2DModel", "vqvae": "VQModel"}
        index: dict[str, Any] = {"_class_name": "VQDiffusionPipeline", "_diffusers_version": _VERSION}
        index |= {part: ["diffusers", name] for part, name in library.items()}
        index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
        index[NULL_FOLDER] = ["vq_diffusion", "LearnedClassifierFreeSamplingEmbeddings"]
        _json(path / "model_index.json", index)
    return lost


def _representable(denoiser: Denoiser) -> ClassicDenoiser:
    if not isinstance(denoiser, ClassicDenoiser):
        raise InputError(f"diffusers has only the classic denoiser, and this model has a {type(denoiser).__name__}")
    config = denoiser.config
    if config.text_width is None or config.conv_mlp or config.mlp_ratio != 4:
        raise InputError("diffusers has only text models with an MLP four times as wide: this model is another kind")
    if (config.position_rows, config.position_columns) != (config.grid_size, config.grid_size):
        table = f"{config.position_rows} × {config.position_columns}"
        raise InputError(
            f"diffusers' position table has the size of the token grid, {config.grid_size}, and this model's is {table}"
        )
    return denoiser


def _transformer_config(config: ClassicConfig) -> dict[str, Any]:
    return TRANSFORMER | {
        "_class_name": "Transformer2DModel",
        "attention_head_dim": config.width // config.heads,
        "cross_attention_dim": config.text_width,
        "norm_type": "ada_norm",  # not needed by 0.24.0, but by current releases
        "num_attention_heads": config.heads,
        "num_embeds_ada_norm": config.num_steps,
        "num_layers": config.depth,
        "num_vector_embeds": config.num_codes + 1,
        "sample_size": config.grid_size,
    }


def _codec_config(config: VQGANConfig) -> dict[str, Any]:
    down, up = block_types(len(config.channel_mult), config.attention_levels)
    return CODEC | {
        "_class_name": "VQModel",
        "block_out_channels": list(config.widths),
        "down_block_types": down,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_blocks,
        "num_vq_embeddings": config.num_codes,
        "sample_size": config.image_size,
        "up_block_types": up,
        "vq_embed_dim": config.code_dim,
    }


def _codec_state(codec: VQGAN) -> dict[str, Tensor]:
    """The codec's weights with attention as linear layers, and with only the codes that stand for a class."""
    state = scatter(codec, codec_names(codec.config))
    state["quantize.embedding.weight"] = codec.codebook.codes.weight[codec.codebook.code_of]
    return {
        key: value.flatten(1) if ".attentions." in key and value.ndim == 4 else value
        for key, value in state.items()
        if not key.startswith("codebook.")
    }


def _null(null: NullCondition | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    learnable = null is not None and null.config.kind != "empty"
    config: dict[str, Any] = {"_class_name": "LearnedClassifierFreeSamplingEmbeddings", "learnable": learnable}
    if null is None or not learnable:
        return config, {"embeddings": torch.empty(0)}  # as written by diffusers
    length, width = null.embedding.shape
    return config | {"hidden_size": width, "length": length}, {"embeddings": null.embedding}


def _scheduler(schedule: Schedule) -> dict[str, Any]:
    (a1, aT), (g1, gT) = schedule.alpha_bar_ends, schedule.gamma_bar_ends
    return {
        "_class_name": "VQDiffusionScheduler",
        "_diffusers_version": _VERSION,
        "alpha_cum_end": aT,
        "alpha_cum_start": a1,
        "gamma_cum_end": gT,
        "gamma_cum_start": g1,
        "num_train_timesteps": schedule.num_steps,
        "num_vec_classes": schedule.num_codes + 1,
    }


def _text_encoder(encoder: ClipTextEncoder, path: Path) -> None:
    """Write the text encoder and its vocabulary with names that every release of transformers reads."""
    ours = encoder.model.config
    config = {key: getattr(ours, key) for key in _CLIP}
    config |= {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "pad_token_id": 0}
    config |= {"bos_token_id": ours.vocab_size - 2, "eos_token_id": ours.vocab_size - 1}
    state = {f"text_model.{key.removeprefix('text_model.')}": v for key, v in encoder.model.state_dict().items()}
    _json(path / "text_encoder" / "config.json", config)
    _weights(path / "text_encoder" / "model.safetensors", state)
    tokenizer: Any = encoder.tokenizer
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    merges = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in pairs)]
    words = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    special["pad_token"] = next(word for word, number in words.items() if number == 0)  # padding uses token 0
    folder = path / "tokenizer"
    _json(folder / "vocab.json", words)
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
    _json(folder / "special_tokens_map.json", special)
    settings = {"model_max_length": encoder.max_tokens, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    _json(folder / "tokenizer_config.json", special | settings)


def _part(folder: Path, config: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype | None) -> None:
    _json(folder / "config.json", config | {"_diffusers_version": _VERSION})
    _weights(folder / _WEIGHTS, {key: value.to(dtype or value.dtype) for key, value in state.items()})


def _weights(file: Path, state: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes files that only their owner can read


def _json(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, sort_keys=file.name != "vocab.json") + "\n", "utf-8")
