"""Networks out of the original checkpoints (``microsoft/VQ-Diffusion``) and of the codec files they go with.

Both readers take a state dict as published, infer the configuration from names and shapes, and give the weights under
our names. They are strict about what a network needs and tolerant of the rest, which they name but ignore: causal masks
that nothing reads (``attn2.mask``), statistics of the codebook's training, weights of the codec's loss.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.errors import InputError
from vqdiff.image_tokenizers.vqgan import VQGAN, VQGANConfig
from vqdiff.shapes import Int

StateDict = Mapping[str, Tensor]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Reading(Generic[Config]):
    """One network of a checkpoint: its configuration, its weights, and its keys (without prefix) that nothing uses."""

    config: Config
    weights: dict[str, Tensor]
    unused: tuple[str, ...]


def read_denoiser(
    state: StateDict, *, heads: int = 16, grid_size: int | None = None, null_class: bool | None = None
) -> Reading[ClassicConfig]:
    """The denoiser in a checkpoint's ``model`` or ``ema`` state dict, or in the bare network's.

    The file does not tell the number of heads (all published models have 16) nor, unless it is a text model, the token
    grid. ``null_class`` says whether the last class row is the null; by default it is in a table of 1001 rows, which is
    ImageNet's 1000 and one. Raises InputError if a weight is missing or has a shape that does not fit the others.
    """
    anchor = "content_emb.emb.weight"
    prefix = next((key.removesuffix(anchor) for key in state if key.endswith(anchor)), None)
    if prefix is None:
        raise InputError(f"no denoiser in this checkpoint: none of its {len(state)} keys ends in {anchor}")
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    rows, width = _shape(state, anchor)
    reads_text = "blocks.0.attn2.key.weight" in state
    has_classes = "blocks.0.ln2.emb.weight" in state
    conv_mlp = "blocks.0.mlp.conv1.weight" in state
    class_rows = _shape(state, "blocks.0.ln2.emb.weight")[0] if has_classes else 0
    null_class = has_classes and (class_rows == 1001 if null_class is None else null_class)
    if grid_size is None:
        if "blocks.0.attn2.mask" not in state:
            raise InputError("this checkpoint does not tell its token grid: pass grid_size (16 for the published ones)")
        grid_size = round(_shape(state, "blocks.0.attn2.mask")[-1] ** 0.5)
    config = ClassicConfig(
        num_codes=rows - 1,
        num_steps=_shape(state, "blocks.0.ln1.emb.weight")[0],
        grid_size=grid_size,
        width=width,
        depth=_count(state, "blocks"),
        heads=heads,
        mlp_ratio=_shape(state, "blocks.0.mlp.conv1.weight" if conv_mlp else "blocks.0.mlp.0.weight")[0] // width,
        conv_mlp=conv_mlp,
        text_width=_shape(state, "blocks.0.attn2.key.weight")[1] if reads_text else None,
        num_classes=class_rows - null_class if has_classes else None,
        null_class=null_class,
        position_rows=_shape(state, "content_emb.height_emb.weight")[0],
        position_columns=_shape(state, "content_emb.width_emb.weight")[0],
    )
    names = {
        "token_embedding.": "content_emb.emb.",
        "row_embedding.": "content_emb.height_emb.",
        "column_embedding.": "content_emb.width_emb.",
        "head_norm.": "to_logits.0.",
        "head.": "to_logits.1.",
        ".self_norm.": ".ln1.",
        ".cross_norm.": ".ln1_1.",
        ".mlp_norm.": ".ln2.",
        ".embedding.": ".emb.",
        ".self_attention.": ".attn1." if reads_text else ".attn.",
        ".cross_attention.": ".attn2.",
        ".q.": ".query.",
        ".out.": ".proj.",
        ".mlp.widen.": ".mlp.conv1." if conv_mlp else ".mlp.0.",
        ".mlp.narrow.": ".mlp.conv2." if conv_mlp else ".mlp.2.",
    }
    fused = {".qkv.": (".query.", ".key.", ".value."), ".kv.": (".key.", ".value.")}
    with torch.device("meta"):
        network = ClassicDenoiser(config)
    return _read(state, config, network, names, fused)


def read_codec(
    state: StateDict, *, mapping: Int[Tensor, " codes"] | None = None, image_size: int = 256
) -> Reading[VQGANConfig]:
    """The image codec in a codec file's state dict, or in the ``model`` of a whole checkpoint.

    ``mapping`` is the published table, class by code (never inside a checkpoint); a class is decoded by its first code.
    Raises InputError if a weight is missing or does not fit, or if the table does not.
    """
    state = _codec_part(state)
    channels = _shape(state, "encoder.conv_in.weight")[0]
    levels = range(_count(state, "encoder.down"))
    gumbel = "quantize.proj.weight" in state
    codes = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    if "quantize.embedding" in state:  # the EMA codebook of ITHQ is a buffer
        codes = "quantize.embedding"
    codebook_size, code_dim = _shape(state, codes)
    if mapping is None:
        mapping = torch.arange(codebook_size)
    code_of = _first_codes(mapping, codebook_size)
    config = VQGANConfig(
        image_size=image_size,
        channels=channels,
        channel_mult=tuple(_shape(state, f"encoder.down.{i}.block.0.conv1.weight")[0] // channels for i in levels),
        num_blocks=_count(state, "encoder.down.0.block"),
        attention_levels=tuple(i for i in levels if _count(state, f"encoder.down.{i}.attn")),
        latent_channels=_shape(state, "encoder.conv_out.weight")[0],
        code_dim=code_dim,
        codebook_size=codebook_size,
        num_codes=len(code_of),
        gumbel=gumbel,
    )
    names: dict[str, str] = {}
    for i, level in enumerate(reversed(levels)):  # our decoder counts its levels in the order they run
        names |= {
            f"encoder.levels.{level}.resize.": f"encoder.down.{level}.downsample.",
            f"encoder.levels.{level}.": f"encoder.down.{level}.",
            f"decoder.levels.{i}.resize.": f"decoder.up.{level}.upsample.",
            f"decoder.levels.{i}.": f"decoder.up.{level}.",
        }
    names |= {
        ".blocks.": ".block.",
        ".attentions.": ".attn.",
        ".middle.0.": ".mid.block_1.",
        ".middle.1.": ".mid.attn_1.",
        ".middle.2.": ".mid.block_2.",
        ".shortcut.": ".nin_shortcut.",
        ".out.": ".proj_out.",
        "to_code.": "quant_conv.",
        "from_code.": "post_quant_conv.",
        "codebook.codes.weight": codes,
        "codebook.projection.": "quantize.proj.",
    }
    state |= {"codebook.class_of": mapping, "codebook.code_of": code_of}
    if gumbel:  # a 1×1 convolution there, a linear layer here
        state["quantize.proj.weight"] = state["quantize.proj.weight"].flatten(1)
    with torch.device("meta"):
        network = VQGAN(config)
    return _read(state, config, network, names, {".qkv.": (".q.", ".k.", ".v.")})


def _codec_part(state: StateDict) -> dict[str, Tensor]:
    """The codec's entries, freed of the prefix they have in a whole checkpoint or beside an autoregressive model."""
    for prefixes in (("content_codec.enc.", "content_codec.dec."), ("first_stage_model.",), ("",)):
        part = {key.removeprefix(p): value for p in prefixes for key, value in state.items() if key.startswith(p)}
        if "encoder.conv_in.weight" in part:
            return part
    raise InputError(f"no image codec in this checkpoint: none of its {len(state)} keys ends in encoder.conv_in.weight")


def _first_codes(mapping: Int[Tensor, " codes"], codebook_size: int) -> Int[Tensor, " classes"]:
    """The inverse of a table with several codes a class: each class's first code."""
    if mapping.shape != (codebook_size,):
        raise InputError(f"the mapping table has shape {tuple(mapping.shape)}, this codec has {codebook_size} codes")
    codes = torch.arange(codebook_size)
    first = torch.full((int(mapping.max()) + 1,), codebook_size).scatter_reduce(0, mapping, codes, "amin")
    if (first == codebook_size).any():
        raise InputError(f"the mapping table has no code for class {int(first.argmax())}: is it another codec's?")
    return first


def _shape(state: StateDict, key: str) -> torch.Size:
    if key not in state:
        raise InputError(f"the checkpoint is incomplete: {key} is missing; download it again")
    return state[key].shape


def _count(state: StateDict, prefix: str) -> int:
    """How many numbered entries there are under ``prefix``."""
    return len({match[0] for key in state if (match := re.match(rf"{re.escape(prefix)}\.\d+\.", key))})


def _read(
    state: StateDict, config: Config, network: nn.Module, names: Mapping[str, str], fused: Mapping[str, tuple[str, ...]]
) -> Reading[Config]:
    """Collect ``network``'s weights from ``state``.

    ``names`` turns our names into theirs, piece by piece and in order; a piece in ``fused`` stands for several of their
    tensors, to be stacked.
    """
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, like in network.state_dict().items():
        theirs = name
        for ours, replacement in names.items():
            theirs = theirs.replace(ours, replacement)
        keys = [theirs.replace(ours, part) for ours, parts in fused.items() if ours in theirs for part in parts]
        keys = keys or [theirs]
        wanted = torch.Size([like.shape[0] // len(keys), *like.shape[1:]])
        for key in keys:
            if _shape(state, key) != wanted:
                raise InputError(f"{key} has shape {tuple(state[key].shape)} where {tuple(wanted)} fits the rest")
        weights[name] = torch.cat([state[key] for key in keys]).to(like.dtype)
        used.update(keys)
    return Reading(config, weights, tuple(sorted(state.keys() - used)))
