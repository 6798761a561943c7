"""Read the original checkpoints (``microsoft/VQ-Diffusion``): text, class-conditional and unconditional, one file each.

They are training checkpoints: the weights under ``model``, their moving average, which is used for sampling, under
``ema``, and optimizer states. They contain CLIP and may contain the image codec. What the file lacks (heads, token
grid) is taken from the caller, or from the ``.yaml`` configuration beside it, or is as in the published models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
import yaml
from torch import Tensor

from vqdiff.checkpoints.archive import read_table, read_weights
from vqdiff.checkpoints.clip import null_condition, read_clip
from vqdiff.checkpoints.presets import preset_for
from vqdiff.checkpoints.reading import KeyNames, Reading, StateDict, assemble, collect, count, listed, shape_of
from vqdiff.checkpoints.taming import has_codec, read_codec
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import VQGAN, AbsentConfig, AbsentTokenizer
from vqdiff.interfaces import ImageTokenizer
from vqdiff.model import Card, Model, load_component
from vqdiff.text import ClipTextEncoder

Tokenizer = TypeVar("Tokenizer", bound=ImageTokenizer)


class Extras(TypedDict, total=False):
    """What an original checkpoint does not contain.

    image_tokenizer: the codec's file (or a component folder of ours). code_map: its mapping table; by default the one
    that fits among the ``.pt`` files beside the codec. text_encoder: OpenAI's CLIP file, instead of the CLIP inside.
    heads, grid_size (tokens per side), null_class (whether the class tables end with a row for "no class").
    """

    image_tokenizer: str | Path | None
    code_map: str | Path | None
    text_encoder: str | Path | None
    heads: int | None
    grid_size: int | None
    null_class: bool | None


def read(path: Path, extras: Extras, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model | VQGAN:
    """Read the model in a checkpoint; ``card.origin`` names the source of each part, ``card.notes`` irregularities.

    For a file with only an image codec, return the codec. ``dtype`` is the denoiser's. ``shapes_only`` gives parts on
    the meta device and reads almost nothing. Raises InputError for a file that is broken, incomplete or of another
    format.
    """
    file = read_weights(path, check=not shapes_only)
    state, origin, notes = _sampling_state(file, path)
    if has_codec(state) and not has_denoiser(state):
        table = extras.get("code_map")
        if table is not None:
            table = Path(table)
        return read_image_tokenizer(path, code_map=table, grid_size=extras.get("grid_size"), shapes_only=shapes_only)
    if shapes_only:  # only the schedule is read
        state = {k: v if k.startswith("transformer.log_") else v.to("meta") for k, v in state.items()}
    settings = _configuration(path)
    given = {key: extras.get(key) for key in ("heads", "grid_size", "null_class")}
    settings |= {key: value for key, value in given.items() if value is not None}
    if "heads" not in settings:
        notes.append("the number of heads is not in the file: 16 is assumed, as in every published model")
    published_grid = 16 if _rows(state) == 32 and not any(".attn2." in key for key in state) else None
    reading = read_denoiser(
        state,
        heads=settings.get("heads", 16),
        grid_size=settings.get("grid_size", published_grid),
        null_class=settings.get("null_class"),
        dtype=dtype,
    )
    config = reading.config
    schedule, note = read_schedule(state, config.num_steps, config.num_codes)
    notes += [note] if note else []
    encoder = null = None
    stray = [key for key in state if key.endswith("empty_text_embed")]
    if config.text_width is not None:
        encoder = _text_encoder(state, extras.get("text_encoder"), origin, shapes_only)
        null = null_condition(state, "transformer.empty_text_embed", encoder, config, shapes_only=shapes_only)
        origin["null_condition"] = f"{path.name}: empty_text_embed" if stray else "CLIP's features of the empty text"
        stray = []
    masks = [key for key in reading.unused if key.endswith("attn2.mask")]
    if masks:
        notes.append(f"dropped: {len(masks)} masks (attn2.mask) that are never used")
    if stray := stray + [key for key in reading.unused if key not in masks]:
        notes.append(f"not used: {listed(stray)}")
    tokenizer = _image_tokenizer(state, path, config, extras, settings.get("codec"), origin, shapes_only)
    return Model(
        schedule,
        assemble(ClassicDenoiser, reading),
        tokenizer,
        encoder,
        null,
        preset_for(config, learned_null=null is not None and null.config.kind == "learnable"),
        Card(name=path.stem, origin=origin, notes=tuple(notes)),
    )


def read_image_tokenizer(
    path: Path, *, code_map: Path | None = None, grid_size: int | None = None, num_codes: int | None = None,
    shapes_only: bool = False,
) -> VQGAN:  # fmt: skip
    """Read the image codec in a codec file, or in a whole checkpoint.

    If the diffusion model has fewer codes than the codec and no table is given, the one that fits among the ``.pt``
    files beside the codec is used. Raises InputError if the codec does not fit ``num_codes`` codes.
    """
    file = read_weights(path, check=not shapes_only)
    state = {k: v for k, v in _state(file).items() if isinstance(v, Tensor)}
    if shapes_only:
        state = {key: value.to("meta") for key, value in state.items()}
    return _codec(state, path, code_map, grid_size, num_codes)


_ANCHOR = "content_emb.emb.weight"


def has_denoiser(state: StateDict) -> bool:
    """Whether there is a denoiser among the entries."""
    return any(key.endswith(_ANCHOR) for key in state)


def read_denoiser(
    state: StateDict,
    *,
    heads: int = 16,
    grid_size: int | None = None,
    null_class: bool | None = None,
    dtype: torch.dtype | None = None,
) -> Reading[ClassicConfig]:
    """Read the denoiser from a checkpoint's ``model`` or ``ema`` state dict, or from that of the network alone.

    The file contains neither the number of heads (16 in all published models) nor, unless it is a text model, the token
    grid. ``null_class`` says whether the last class row is the null condition; by default only in a table of 1001 rows,
    ImageNet's 1000 and one. Raises InputError if a weight is missing or has a shape that does not fit the others.
    """
    if not has_denoiser(state):
        raise InputError(f"no denoiser in this checkpoint: none of its {len(state)} keys ends in {_ANCHOR}")
    prefix = next(key.removesuffix(_ANCHOR) for key in state if key.endswith(_ANCHOR))
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    rows, width = shape_of(state, _ANCHOR)
    reads_text = "blocks.0.attn2.key.weight" in state
    has_classes = "blocks.0.ln2.emb.weight" in state
    conv_mlp = "blocks.0.mlp.conv1.weight" in state
    class_rows = shape_of(state, "blocks.0.ln2.emb.weight")[0] if has_classes else 0
    null_class = has_classes and (class_rows == 1001 if null_class is None else null_class)
    if grid_size is None:
        if "blocks.0.attn2.mask" not in state:
            raise InputError(
                "this checkpoint does not contain its token grid: pass grid_size (published: 32 for text, else 16)"
            )
        grid_size = round(shape_of(state, "blocks.0.attn2.mask")[-1] ** 0.5)
    config = ClassicConfig(
        num_codes=rows - 1,
        num_steps=shape_of(state, "blocks.0.ln1.emb.weight")[0],
        grid_size=grid_size,
        width=width,
        depth=count(state, "blocks"),
        heads=heads,
        mlp_ratio=shape_of(state, "blocks.0.mlp.conv1.weight" if conv_mlp else "blocks.0.mlp.0.weight")[0] // width,
        conv_mlp=conv_mlp,
        text_width=shape_of(state, "blocks.0.attn2.key.weight")[1] if reads_text else None,
        num_classes=class_rows - null_class if has_classes else None,
        null_class=null_class,
        position_rows=shape_of(state, "content_emb.height_emb.weight")[0],
        position_columns=shape_of(state, "content_emb.width_emb.weight")[0],
    )
    return collect(state, config, ClassicDenoiser, names_of(config), prefix=prefix, dtype=dtype)


def names_of(config: ClassicConfig) -> KeyNames:
    """The names of a denoiser's weights in the original code."""
    pieces = {
        "token_embedding.": "content_emb.emb.",
        "row_embedding.": "content_emb.height_emb.",
        "column_embedding.": "content_emb.width_emb.",
        "head_norm.": "to_logits.0.",
        "head.": "to_logits.1.",
        ".self_norm.": ".ln1.",
        ".cross_norm.": ".ln1_1.",
        ".mlp_norm.": ".ln2.",
        ".embedding.": ".emb.",
        ".self_attention.": ".attn1." if config.text_width else ".attn.",
        ".cross_attention.": ".attn2.",
        ".q.": ".query.",
        ".out.": ".proj.",
        ".mlp.widen.": ".mlp.conv1." if config.conv_mlp else ".mlp.0.",
        ".mlp.narrow.": ".mlp.conv2." if config.conv_mlp else ".mlp.2.",
    }
    return KeyNames(pieces, {".qkv.": (".query.", ".key.", ".value."), ".kv.": (".key.", ".value.")})


def read_schedule(state: StateDict, num_steps: int, num_codes: int) -> tuple[Schedule, str | None]:
    """Read the noise schedule from a checkpoint's buffers, and a note if it is not the published one.

    The first checkpoints (before April 2022) divided the replaced tokens among K + 1 classes instead of K.
    """
    published = Schedule.published(num_steps, num_codes)
    names = [f"transformer.log_cumprod_{letter}t" for letter in "abc"]
    if not all(name in state for name in names):
        return published, "the schedule is not in the file: the published one is assumed"
    for name in names:
        if shape_of(state, name) != (num_steps + 1,):
            raise InputError(f"{name} has shape {tuple(state[name].shape)}, but {(num_steps + 1,)} fits the rest")
    alpha, beta, gamma = (state[name].double().exp()[:num_steps] for name in names)

    def fits(schedule: Schedule, gamma: Tensor = gamma) -> bool:
        ours = (schedule.alpha_bar, schedule.beta_bar, schedule.gamma_bar)
        pairs = zip(ours, (alpha, beta, gamma), strict=True)
        return all(torch.allclose(one[1:], other, rtol=2e-5, atol=1e-12) for one, other in pairs)

    if fits(published):
        return published, None
    # What the K codes do not receive goes to the mask: always beta in the old form.
    rest = 1 - alpha - num_codes * beta
    ends = [(round(float(x[0]), 12), round(float(x[-1]), 12)) for x in (alpha, rest)]
    kept = Schedule.linear(num_steps, num_codes, *ends)
    if not fits(kept, rest):
        raise InputError("the checkpoint's noise schedule is not linear, as all published ones are")
    old = torch.allclose(beta * (num_codes + 1), published.beta_bar[1:] * num_codes, rtol=2e-5)
    why = "of the form before April 2022 (K + 1 in place of K)" if old else "not the published one"
    return kept, f"the schedule in the file is {why}: kept"


def _state(file: dict[str, Any]) -> dict[str, Any]:
    for key in ("model", "state_dict"):
        if isinstance(file.get(key), dict):
            return dict(file[key])
    return file


def _sampling_state(file: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The weights used for sampling, with their names in ``model``; their origin; notes."""
    state, ema, notes, source = _state(file), file.get("ema"), list[str](), "model"
    if isinstance(ema, dict) and ema:
        # Never mixed: a weight that is not in the average is missing.
        state = {key: value for key, value in state.items() if not key.startswith("transformer.")}
        state |= {f"transformer.{key}": value for key, value in ema.items()}
        source = "ema"
    elif "model" in file:
        notes.append("the file has no averaged weights (ema): the last ones (model) are used")
    return (
        {key: value for key, value in state.items() if isinstance(value, Tensor)},
        {"denoiser": f"{path.name}: {source}"},
        notes,
    )


def _rows(state: StateDict) -> int | None:
    return next((len(value) for key, value in state.items() if key.endswith("content_emb.height_emb.weight")), None)


def _text_encoder(
    state: StateDict, file: str | Path | None, origin: dict[str, str], shapes_only: bool
) -> ClipTextEncoder:
    if file is not None:
        origin["text_encoder"] = Path(file).name
        clip = {k: v for k, v in _state(read_weights(Path(file), check=not shapes_only)).items() if torch.is_tensor(v)}
        return read_clip(clip, shapes_only=shapes_only)
    if "transformer.condition_emb.token_embedding.weight" not in state:
        raise InputError("this text model came without its CLIP: pass text_encoder, OpenAI's ViT-B-32.pt")
    origin["text_encoder"] = origin["denoiser"]
    return read_clip(state, "transformer.condition_emb.", shapes_only=shapes_only)


_CODECS = {
    4096: "ithq_vqvae.pth",
    2887: "taming_f8_8192_openimages_last.pth and its table taming_vqvae_2887.pt",
    974: "vqgan_imagenet_f16_16384.pth and its table taming_vqvae_974.pt",
    1024: "vqgan_ffhq_f16_1024.pth",
}


def _image_tokenizer(
    state: StateDict,
    path: Path,
    config: ClassicConfig,
    extras: Extras,
    named: str | None,
    origin: dict[str, str],
    shapes_only: bool,
) -> ImageTokenizer:
    codes, grid = config.num_codes, config.grid_size
    file, table = (Path(x) if (x := extras.get(key)) is not None else None for key in ("image_tokenizer", "code_map"))
    wanted = f"image_tokenizer={_CODECS.get(codes) or named or 'the codec file it was trained with'}"
    if file is not None:
        origin["image_tokenizer"] = file.name
        if file.is_dir():
            return fitting(load_component(file, shapes_only=shapes_only), file, grid, codes)
        return read_image_tokenizer(file, code_map=table, grid_size=grid, num_codes=codes, shapes_only=shapes_only)
    if has_codec(state):
        try:
            codec = _codec(state, path, table, grid, codes)
        except _TableMissingError as error:
            wanted = f"code_map={_CODECS.get(codes, 'the table of the codec')} ({error})"
        else:
            origin["image_tokenizer"] = f"{path.name}: content_codec"
            return codec
    origin["image_tokenizer"] = "missing"
    return AbsentTokenizer(AbsentConfig(grid, codes, wanted))


class _TableMissingError(InputError):
    """A codec with more codes than the diffusion model, and no table between them."""


def _codec(state: StateDict, path: Path, code_map: Path | None, grid_size: int | None, num_codes: int | None) -> VQGAN:
    reading = read_codec(state, grid_size=grid_size)
    size = reading.config.codebook_size
    mapping = None
    if code_map is not None:
        mapping = read_table(code_map)
    elif num_codes is not None and num_codes < size:
        mapping = _table_beside(path, size, num_codes)
        if mapping is None:
            raise _TableMissingError(
                f"the codec {path.name} has {size} codes, but the denoiser has {num_codes}: pass code_map, the table "
                "between them, or the codec that belongs to this model"
            )
    if mapping is not None:
        reading = read_codec(state, mapping=mapping, grid_size=grid_size)
    return fitting(assemble(VQGAN, reading), path, grid_size, num_codes)


def fitting(codec: Tokenizer, path: Path, grid_size: int | None, num_codes: int | None) -> Tokenizer:
    """Return ``codec`` if its tokens fit; InputError if it belongs to another model."""
    if (num_codes or codec.num_codes) != codec.num_codes or (grid_size or codec.grid_size) != codec.grid_size:
        raise InputError(
            f"the codec {path.name} has {codec.num_codes} codes on a grid of {codec.grid_size}, the denoiser "
            f"{num_codes} on {grid_size}: it belongs to another model"
        )
    return codec


def _table_beside(path: Path, codebook_size: int, num_codes: int) -> Tensor | None:
    for file in sorted(path.absolute().parent.glob("*.pt")):
        if file.stat().st_size < 10 * codebook_size + 10_000:
            try:
                table = read_table(file)
            except InputError:
                continue
            if len(table) == codebook_size and int(table.max()) == num_codes - 1:
                return table
    return None


def _configuration(path: Path) -> dict[str, Any]:
    """The settings in the training configuration beside a checkpoint; empty if there is none."""
    file = next((file for end in (".yaml", ".yml") if (file := path.with_suffix(end)).is_file()), None)
    if file is None:
        return {}
    try:
        params = yaml.load(file.read_text("utf-8"), _Loader)["model"]["params"]
        network = params["diffusion_config"]["params"]["transformer_config"]["params"]
        found: dict[str, Any] = {"heads": int(network["n_head"]), "grid_size": int(network["content_spatial_size"][0])}
        if codec := params.get("content_codec_config", {}).get("params", {}).get("ckpt_path"):
            found["codec"] = Path(codec).name
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} does not configure a published model ({reason}): repair or remove it") from error


class _Loader(yaml.SafeLoader):
    """Loads plain values only, and tuples, which the published files contain."""


_sequence: Callable[..., Any] = lambda loader, node: tuple(loader.construct_sequence(node, deep=True))  # noqa: E731
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)
