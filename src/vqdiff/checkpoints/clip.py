"""Read published CLIP text encoders: with OpenAI's names, inside diffusion checkpoints, or in a transformers folder."""

from __future__ import annotations

import lzma
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqdiff.checkpoints.reading import StateDict, count, listed, shape_of
from vqdiff.denoisers.classic import ClassicConfig
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import require
from vqdiff.foundation.files import read_json
from vqdiff.text import ClipTextEncoder, NullCondition, NullConfig

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

VOCABULARY = 49_408  # the size in every CLIP published by OpenAI


def read_clip(state: StateDict, prefix: str = "", *, shapes_only: bool = False) -> ClipTextEncoder:
    """Read the text encoder among the entries of ``state`` that begin with ``prefix``, with OpenAI's names, as float32.

    The number of heads is width / 64, as in OpenAI's code; with a vocabulary of another size there is no tokenizer.
    Raises InputError for missing entries.
    """
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    vocabulary, width = shape_of(state, "token_embedding.weight", prefix)
    layers = count(state, "transformer.resblocks")
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape_of(state, "transformer.resblocks.0.mlp.c_fc.weight", prefix)[0],
        "projection_dim": shape_of(state, "text_projection", prefix)[1] if "text_projection" in state else width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": shape_of(state, "positional_embedding", prefix)[0],
        "hidden_act": "quick_gelu",
    }
    theirs: dict[str, Tensor] = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    pairs = {"final_layer_norm": "ln_final"}
    for layer in range(layers):
        ours, block = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        pairs |= {
            f"{ours}.layer_norm1": f"{block}.ln_1",
            f"{ours}.layer_norm2": f"{block}.ln_2",
            f"{ours}.mlp.fc1": f"{block}.mlp.c_fc",
            f"{ours}.mlp.fc2": f"{block}.mlp.c_proj",
            f"{ours}.self_attn.out_proj": f"{block}.attn.out_proj",
        }
        for kind in ("weight", "bias"):
            shape_of(state, f"{block}.attn.in_proj_{kind}", prefix)
            stacked = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
            theirs |= {f"{ours}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", stacked, strict=True)}
    for ours, name in pairs.items():
        for kind in ("weight", "bias"):
            shape_of(state, f"{name}.{kind}", prefix)
            theirs[f"{ours}.{kind}"] = state[f"{name}.{kind}"]
    model = text_model(config, theirs, shapes_only=shapes_only)
    return ClipTextEncoder(model, openai_tokenizer() if vocabulary == VOCABULARY else None)


def read_clip_folder(folder: Path, tokenizer: Path, state: StateDict, *, shapes_only: bool = False) -> ClipTextEncoder:
    """Read a transformers CLIP text encoder: ``state`` with the names of any version, the rest from folders."""
    require("a CLIP text encoder", "clip")
    from transformers import CLIPTokenizer

    config = read_json(folder / "config.json")
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    wanted += ("max_position_embeddings", "hidden_act", "layer_norm_eps", "projection_dim")
    state = {key.removeprefix("text_model."): value for key, value in state.items() if "position_ids" not in key}
    model = text_model({key: config[key] for key in wanted if key in config}, state, shapes_only=shapes_only)
    try:
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{tokenizer} is not a CLIP tokenizer: {str(error).splitlines()[0]}") from error
    return ClipTextEncoder(model, words)


def text_model(config: dict[str, Any], state: StateDict, *, shapes_only: bool = False) -> CLIPTextModel:
    """Make a transformers ``CLIPTextModel`` with the weights ``state``, named without ``text_model.``, as float32."""
    require("a CLIP text encoder", "clip")
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        words = int(config.get("vocab_size", VOCABULARY))
        settings = CLIPTextConfig(**{"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0, **config})
        if settings.num_hidden_layers != (layers := count(state, "encoder.layers")):
            raise InputError(
                f"the text encoder's weights have {layers} layers, not {settings.num_hidden_layers} as configured"
            )
        with torch.device("meta"):  # takes no memory, whatever the configured sizes, until the weights are assigned
            model = CLIPTextModel(settings)
    except InputError:
        raise
    except Exception as error:  # from checks of the values in transformers and torch
        raise InputError(f"the text encoder's configuration is not one of CLIP: {error}") from error
    known = model.state_dict()
    prefix = "text_model." if any(key.startswith("text_model.") for key in known) else ""  # by version
    weights = {prefix + key: value for key, value in state.items()}
    if missing := [key.removeprefix(prefix) for key in known if key not in weights]:
        raise InputError(f"the text encoder is incomplete: {listed(missing)} is missing; download it again")
    for key, like in known.items():
        if weights[key].shape != like.shape:
            shape = tuple(weights[key].shape)
            raise InputError(f"the text encoder's {key} has shape {shape}, but {tuple(like.shape)} fits the rest")
    if not shapes_only:
        model = CLIPTextModel(settings)
        model.load_state_dict({key: weights[key].float() for key in known})
    return model


def null_condition(
    state: StateDict, key: str, encoder: ClipTextEncoder, denoiser: ClassicConfig, *, shapes_only: bool = False
) -> NullCondition:
    """The learned null condition under ``key``, or the features of the empty text if there is none.

    Raises InputError if it, or the encoder, does not fit the denoiser.
    """
    if encoder.width != denoiser.text_width:
        raise InputError(
            f"the denoiser reads text features of width {denoiser.text_width}, this CLIP gives {encoder.width}"
        )
    learned, shape = state.get(key), (encoder.max_tokens, encoder.width)
    if learned is not None and learned.shape != shape:
        raise InputError(f"{key} has shape {tuple(learned.shape)}, but {shape} fits the rest")
    with torch.device("meta" if shapes_only else "cpu"):
        null = NullCondition(NullConfig("empty" if learned is None else "learnable", *shape))
    if learned is not None:
        null.embedding.data.copy_(learned)
    elif not shapes_only:
        null.set_empty(encoder)
    return null.eval().requires_grad_(False)


@cache
def openai_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding: its merges come with this package, and everything else follows from them."""
    from transformers import CLIPTokenizer

    packed = (resources.files("vqdiff.checkpoints") / "clip_merges.txt.xz").read_bytes()
    merges = [tuple(line.split()) for line in lzma.decompress(packed).decode().splitlines()]
    # The 256 bytes as printable characters: first those that are printable, then the others from U+0100 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*characters, *(c + "</w>" for c in characters), *(a + b for a, b in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # type: ignore[call-arg]
