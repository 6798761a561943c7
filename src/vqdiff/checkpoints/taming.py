"""Image codecs of taming-transformers and of the published models: Gumbel f8, VQ f16, ITHQ's EMA codebook, FFHQ's."""

from __future__ import annotations

import torch
from torch import Tensor

from vqdiff.checkpoints.reading import KeyNames, Reading, StateDict, collect, count, shape_of
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Int
from vqdiff.image_tokenizers.vqgan import VQGAN, VQGANConfig


def read_codec(
    state: StateDict,
    *,
    mapping: Int[Tensor, " codes"] | None = None,
    image_size: int = 256,
    grid_size: int | None = None,
) -> Reading[VQGANConfig]:
    """Read the image codec from a codec file's state dict, or from the ``model`` of a whole checkpoint.

    ``mapping`` is the published table from code to class (never inside a checkpoint); a class is decoded by its first
    code. The file does not contain the size of its images: give it, or the number of tokens per side.
    Raises InputError if a weight is missing or does not fit, or if the table does not.
    """
    state = _codec_part(state)
    channels = shape_of(state, "encoder.conv_in.weight")[0]
    levels = range(count(state, "encoder.down"))
    gumbel = "quantize.proj.weight" in state
    codes = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    if "quantize.embedding" in state:  # the EMA codebook of ITHQ is a buffer
        codes = "quantize.embedding"
    codebook_size, code_dim = shape_of(state, codes)
    if mapping is None:
        mapping = torch.arange(codebook_size)
    code_of = _first_codes(mapping, codebook_size)
    config = VQGANConfig(
        image_size=image_size if grid_size is None else grid_size * 2 ** (len(levels) - 1),
        channels=channels,
        channel_mult=tuple(shape_of(state, f"encoder.down.{i}.block.0.conv1.weight")[0] // channels for i in levels),
        num_blocks=count(state, "encoder.down.0.block"),
        attention_levels=tuple(i for i in levels if count(state, f"encoder.down.{i}.attn")),
        latent_channels=shape_of(state, "encoder.conv_out.weight")[0],
        code_dim=code_dim,
        codebook_size=codebook_size,
        num_codes=len(code_of),
        gumbel=gumbel,
    )
    pieces: dict[str, str] = {}
    for i, level in enumerate(reversed(levels)):  # our decoder numbers its levels in the order they run
        pieces |= {
            f"encoder.levels.{level}.resize.": f"encoder.down.{level}.downsample.",
            f"encoder.levels.{level}.": f"encoder.down.{level}.",
            f"decoder.levels.{i}.resize.": f"decoder.up.{level}.upsample.",
            f"decoder.levels.{i}.": f"decoder.up.{level}.",
        }
    pieces |= {
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
    return collect(state, config, VQGAN, KeyNames(pieces, {".qkv.": (".q.", ".k.", ".v.")}))


def _codec_part(state: StateDict) -> dict[str, Tensor]:
    """The codec's entries, without the prefix they have in a whole checkpoint or beside an autoregressive model."""
    for prefixes in (("content_codec.enc.", "content_codec.dec."), ("first_stage_model.",), ("",)):
        part = {key.removeprefix(p): value for p in prefixes for key, value in state.items() if key.startswith(p)}
        if "encoder.conv_in.weight" in part:
            return part
    raise InputError(f"no image codec in this checkpoint: none of its {len(state)} keys ends in encoder.conv_in.weight")


def has_codec(state: StateDict) -> bool:
    """Whether there is an image codec among the entries."""
    return any(key.endswith("encoder.conv_in.weight") for key in state)


def _first_codes(mapping: Int[Tensor, " codes"], codebook_size: int) -> Int[Tensor, " classes"]:
    """Invert a table with several codes per class: each class's first code."""
    if mapping.shape != (codebook_size,):
        raise InputError(f"the mapping table has shape {tuple(mapping.shape)}, this codec has {codebook_size} codes")
    classes = mapping.unique()
    expected = torch.arange(len(classes))
    if (gaps := classes != expected).any():
        raise InputError(
            f"the mapping table has no code for class {int(gaps.int().argmax())}: is it for another codec?"
        )
    return torch.full_like(classes, codebook_size).scatter_reduce(0, mapping, torch.arange(codebook_size), "amin")
