"""Read folders of diffusers' ``VQDiffusionPipeline``, with the names of 2022 or of today, without diffusers.

A folder has one sub-folder per part, each with its configuration and its weights (``.safetensors`` or ``.bin``, whole
or in shards, in full or half precision).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqdiff.checkpoints.archive import read_weights
from vqdiff.checkpoints.clip import null_condition, read_clip_folder
from vqdiff.checkpoints.presets import preset_for
from vqdiff.checkpoints.reading import KeyNames, StateDict, assemble, collect, count, listed, shape_of
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import read_json
from vqdiff.image_tokenizers import VQGAN, VQGANConfig
from vqdiff.model import Card, Model

NULL_FOLDER = "learned_classifier_free_sampling_embeddings"

DENOISER_NAMES = KeyNames(
    {
        "token_embedding.": "latent_image_embedding.emb.",
        "row_embedding.": "latent_image_embedding.height_emb.",
        "column_embedding.": "latent_image_embedding.width_emb.",
        "head_norm.": "norm_out.",
        "head.": "out.",
        "blocks.": "transformer_blocks.",
        ".self_norm.": ".norm1.",
        ".cross_norm.": ".norm2.",
        ".mlp_norm.": ".norm3.",
        ".embedding.": ".emb.",
        ".self_attention.": ".attn1.",
        ".cross_attention.": ".attn2.",
        ".q.": ".to_q.",
        ".out.": ".to_out.0.",
        ".mlp.widen.": ".ff.net.0.proj.",
        ".mlp.narrow.": ".ff.net.2.",
    },
    {".qkv.": (".to_q.", ".to_k.", ".to_v."), ".kv.": (".to_k.", ".to_v.")},
)


def codec_names(config: VQGANConfig) -> KeyNames:
    """The names of a codec's weights in diffusers."""
    levels = range(len(config.channel_mult))
    pieces = {f"encoder.levels.{i}.resize.": f"encoder.levels.{i}.downsamplers.0." for i in levels}
    pieces |= {
        ".resize.": ".upsamplers.0.",
        "encoder.levels.": "encoder.down_blocks.",
        "decoder.levels.": "decoder.up_blocks.",
        ".blocks.": ".resnets.",
        ".middle.0.": ".mid_block.resnets.0.",
        ".middle.1.": ".mid_block.attentions.0.",
        ".middle.2.": ".mid_block.resnets.1.",
        ".shortcut.": ".conv_shortcut.",
        "norm_out.": "conv_norm_out.",
        ".norm.": ".group_norm.",
        ".out.": ".to_out.0.",
        "to_code.": "quant_conv.",
        "from_code.": "post_quant_conv.",
        "codebook.codes.": "quantize.embedding.",
    }
    return KeyNames(pieces, {".qkv.": (".to_q.", ".to_k.", ".to_v.")})


_ATTENTION_OF_2022 = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

TRANSFORMER = {"activation_fn": "geglu-approximate", "attention_bias": True, "in_channels": None}
"""The values, besides sizes, in the configuration of every VQ-Diffusion transformer."""
CODEC = {"act_fn": "silu", "in_channels": 3, "norm_num_groups": 32, "out_channels": 3}
"""The values, besides sizes, in the configuration of every VQ-Diffusion codec."""
# Later additions, which change the network unless they have these values.
_TRANSFORMER_NOW = {
    "attention_type": "default",
    "double_self_attention": False,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "norm_type": "ada_norm",
    "only_cross_attention": False,
    "patch_size": None,
}
_LARGEST = 1 << 24  # beyond this, the number of weights could exceed 64 bits
_CODEC_NOW = {"lookup_from_codebook": False, "mid_block_add_attention": True, "norm_type": "group"}


def read_model(folder: Path, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model:
    """Read the model in a folder; ``card.origin`` names the source of each part, ``card.notes`` irregularities.

    ``dtype`` is the denoiser's. ``shapes_only`` gives parts on the meta device and reads almost nothing.
    Raises InputError for a folder that is broken, incomplete or of another format.
    """
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind != "VQDiffusionPipeline":
        raise InputError(f"{folder} is a folder of diffusers' {kind}: only its VQDiffusionPipeline is supported")
    origin, notes = dict[str, str](), list[str]()

    def weights(part: str, ours: str) -> dict[str, Tensor]:
        files = weight_files(folder / part)
        origin[ours] = ", ".join(f"{part}/{file.name}" for file in files)
        state = {key: value for file in files for key, value in read_weights(file, check=not shapes_only).items()}
        if strange := [key for key, value in state.items() if not isinstance(value, Tensor)]:
            raise InputError(f"{folder / part}: {strange[0]} is not a tensor")
        return {key: value.to("meta") if shapes_only else value for key, value in state.items()}

    def report(part: str, unused: tuple[str, ...]) -> None:
        if unused:
            notes.append(f"not used: {listed([f'{part}/{key}' for key in unused])}")

    state = weights("transformer", "denoiser")
    config = denoiser_config(folder / "transformer" / "config.json", state)
    reading = collect(state, config, ClassicDenoiser, DENOISER_NAMES, prefix="transformer/", dtype=dtype)
    report("transformer", reading.unused)
    state = weights("vqvae", "image_tokenizer")
    sizes = codec_config(folder / "vqvae" / "config.json", state, config)
    codec = collect(_codec_state(state, sizes), sizes, VQGAN, codec_names(sizes), prefix="vqvae/")
    report("vqvae", codec.unused)
    encoder = read_clip_folder(
        folder / "text_encoder", folder / "tokenizer", weights("text_encoder", "text_encoder"), shapes_only=shapes_only
    )
    learned: StateDict = {}
    if not (folder / NULL_FOLDER).is_dir():  # as in the published fp16 revision
        notes.append(f"the folder {NULL_FOLDER} is missing: the empty text stands in for the learned null condition")
    elif read_json(folder / NULL_FOLDER / "config.json").get("learnable"):
        learned = weights(NULL_FOLDER, "null_condition")
        shape_of(learned, "embeddings", f"{NULL_FOLDER}/")
    if not learned:
        origin["null_condition"] = "CLIP's features of the empty text"
    return Model(
        schedule_of(folder / "scheduler" / "scheduler_config.json", config),
        assemble(ClassicDenoiser, reading),
        assemble(VQGAN, codec),
        encoder,
        null_condition(learned, "embeddings", encoder, config, shapes_only=shapes_only),
        preset_for(config, learned_null=bool(learned)),
        Card(name=folder.absolute().name, origin=origin, notes=tuple(notes)),
    )


def weight_files(folder: Path) -> list[Path]:
    """The files with a part's weights: safetensors before pickles, full before half precision, shards together."""
    for variant in ("", ".fp16"):
        for stem, end in (
            ("diffusion_pytorch_model", "safetensors"), ("model", "safetensors"),
            ("diffusion_pytorch_model", "bin"), ("pytorch_model", "bin"),
        ):  # fmt: skip
            if (file := folder / f"{stem}{variant}.{end}").is_file():
                return [file]
            if (index := folder / f"{stem}.{end}.index{variant}.json").is_file():
                shards = read_json(index).get("weight_map")
                if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                    raise InputError(f"{index} does not map the weights to files")
                return [folder / Path(name).name for name in sorted(set(shards.values()))]
    raise InputError(f"{folder} has no weights: the folder is incomplete, download it again")


def denoiser_config(file: Path, state: StateDict) -> ClassicConfig:
    """Read ``transformer/config.json``; InputError if it is not the configuration of a VQ-Diffusion transformer."""
    config = read_json(file)
    if config.get("norm_type") == "layer_norm":  # the default when num_embeds_ada_norm still determined the type
        del config["norm_type"]
    _expect(config, TRANSFORMER | _TRANSFORMER_NOW, file)
    heads, grid = _size(config, "num_attention_heads", file), _size(config, "sample_size", file)
    if count(state, "transformer_blocks") != (depth := _size(config, "num_layers", file)):
        found = count(state, "transformer_blocks")
        raise InputError(f"{file} has {depth} layers, but the weights have {found}: download them again")
    return ClassicConfig(
        num_codes=_size(config, "num_vector_embeds", file) - 1,
        num_steps=_size(config, "num_embeds_ada_norm", file),
        grid_size=grid,
        width=heads * _size(config, "attention_head_dim", file),
        depth=depth,
        heads=heads,
        text_width=_size(config, "cross_attention_dim", file),
        position_rows=grid,
        position_columns=grid,
    )


def codec_config(file: Path, state: StateDict, denoiser: ClassicConfig) -> VQGANConfig:
    """Read ``vqvae/config.json``; InputError if it is not the configuration of a codec for the denoiser's tokens."""
    config = read_json(file)
    _expect(config, CODEC | _CODEC_NOW, file)
    widths, down, up = (config.get(key) for key in ("block_out_channels", "down_block_types", "up_block_types"))
    if not (
        isinstance(widths, list) and widths and all(isinstance(width, int) and 0 < width < _LARGEST for width in widths)
    ):
        raise InputError(f"{file}: block_out_channels is {widths!r}, but must be a list of sizes")
    levels = [
        level for level, name in enumerate(down if isinstance(down, list) else ()) if name == "AttnDownEncoderBlock2D"
    ]
    if [down, up] != list(block_types(len(widths), levels)) or any(width % widths[0] for width in widths):
        raise InputError(f"{file}: the blocks {down} and {up} of {widths} channels do not fit a VQ-Diffusion codec")
    blocks = _size(config, "layers_per_block", file)
    if (len(widths), blocks) != (found := tuple(count(state, f"encoder.down_blocks{x}") for x in ("", ".0.resnets"))):
        raise InputError(f"{file} has {len(widths)} levels of {blocks} blocks, but the weights have {found}")
    codes = _size(config, "num_vq_embeddings", file)
    if codes != denoiser.num_codes:
        raise InputError(f"{file}: the codec has {codes} codes, the transformer {denoiser.num_codes}: not of one model")
    latent = _size(config, "latent_channels", file)
    return VQGANConfig(
        image_size=denoiser.grid_size * 2 ** (len(widths) - 1),
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_blocks=blocks,
        attention_levels=tuple(levels),
        latent_channels=latent,
        code_dim=latent if config.get("vq_embed_dim") is None else _size(config, "vq_embed_dim", file),
        codebook_size=codes,
        num_codes=codes,
    )


def block_types(levels: int, attention: Collection[int]) -> tuple[list[str], list[str]]:
    """The names of the encoder's and the decoder's levels in diffusers."""
    down = [f"{'Attn' if level in attention else ''}DownEncoderBlock2D" for level in range(levels)]
    return down, [name.replace("DownEncoder", "UpDecoder") for name in reversed(down)]


def _codec_state(state: StateDict, config: VQGANConfig) -> dict[str, Tensor]:
    """The codec's weights with today's names, and the linear layers of attention as 1×1 convolutions."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        for old, new in _ATTENTION_OF_2022.items():
            key = key.replace(old, new)
        found[key] = value[..., None, None] if ".attentions." in key and value.ndim == 2 else value
    codes = torch.arange(config.num_codes)
    return found | {"codebook.class_of": codes, "codebook.code_of": codes}


def schedule_of(file: Path, config: ClassicConfig) -> Schedule:
    """Read the noise schedule from ``scheduler_config.json``; InputError if it does not fit the denoiser."""
    values = read_json(file)
    published = Schedule.published(config.num_steps, config.num_codes)
    (a1, aT), (g1, gT) = published.alpha_bar_ends, published.gamma_bar_ends
    steps, classes = values.get("num_train_timesteps", 100), values.get("num_vec_classes")
    if (steps, classes) != (config.num_steps, config.num_codes + 1):
        raise InputError(
            f"{file} has {steps} steps and {classes} classes, the transformer {config.num_steps} and "
            f"{config.num_codes + 1}: not of one model"
        )
    ends = [values.get(f"{k}_cum_{end}", default) for k, end, default in (
        ("alpha", "start", a1), ("alpha", "end", aT), ("gamma", "start", g1), ("gamma", "end", gT)
    )]  # fmt: skip
    return Schedule.from_config(
        {"num_steps": steps, "num_codes": config.num_codes, "alpha_bar": ends[:2], "gamma_bar": ends[2:]}
    )


def _expect(config: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise InputError(
                f"{file}: {key} is {config[key]!r}, but {value!r} in VQ-Diffusion: not a model of this kind"
            )


def _size(config: Mapping[str, Any], key: str, file: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _LARGEST:
        raise InputError(f"{file}: {key} is {value!r}, but must be a size")
    return value
