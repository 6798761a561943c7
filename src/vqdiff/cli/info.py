"""``vqdiff info``: describe a model, or how an image was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqdiff.cli.options import Json
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from vqdiff.interfaces import Denoiser, ImageTokenizer, Network
    from vqdiff.model import Model


def info(
    model: str = "emoji",
    *,
    image_tokenizer: Path | None = None,
    credits: bool = False,
    json_output: Json = False,
) -> None:
    """Describe a model: kind, parts and their origin, sizes, schedule, licences, measured quality.

    Of an image file that vqdiff has written: how it was made, from the record inside it.

    Of a model, also prints the processor's units for matrix products, and what --device auto and --precision auto
    mean here.

    Parameters
    ----------
    model
        A bundled model's name, a model, run or diffusers folder, an original checkpoint or codec (.pth), a Hub id, or
        an image.
    image_tokenizer
        The image codec's file, if a checkpoint does not contain it.
    credits
        Print instead whose works the model contains and derives from, and their licences.
    json_output
        Print JSON.
    """
    from vqdiff.foundation.formats import holds_image, read_record

    if holds_image(Path(model)):
        _print(read_record(Path(model)), json_output)
        return

    from vqdiff.checkpoints import kind_of, read
    from vqdiff.foundation.processor import processor
    from vqdiff.model import Model
    from vqdiff.model.devices import auto_precision, pick_device
    from vqdiff.model.finding import find

    path = find(model)
    if credits:
        if json_output:
            raise InputError("--credits prints text: leave out --json")
        print(_credits(path, image_tokenizer))
        return
    parts = read(path, {"image_tokenizer": image_tokenizer}, shapes_only=True)  # names and shapes only
    if isinstance(parts, Model):
        record = {"kind": kind_of(path), **_describe(parts)}
    else:
        record = {"kind": "image tokenizer", **_describe_tokenizer(parts), "parameters": _count(parts)}
    device = pick_device("auto")
    record |= {"processor": str(processor()), "auto": f"{auto_precision(device)} on {device}"}
    _print(record, json_output)


def _print(record: dict[str, Any], json_output: bool) -> None:
    import json

    if json_output:
        print(json.dumps(record))
        return
    for key, value in record.items():
        if key == "masked_nll" and value:
            value = (
                f"{value[0]:.3g} to {value[-1]:.3g} nats per token, few to all masked; for the reveal curve measured"
            )
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
        if isinstance(value, tuple | list):
            value = "; ".join(map(_plain, value))
        if value not in ("", None):
            print(f"{key}: {_plain(value)}")


def _plain(value: object) -> str:
    """A value as a line shows it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _credits(path: Path, image_tokenizer: Path | None) -> str:
    """The model's CREDITS.md, or the licences in its description."""
    from vqdiff.checkpoints import read
    from vqdiff.model import Model

    if (file := path / "CREDITS.md").is_file():
        return file.read_text("utf-8").rstrip()
    parts = read(path, {"image_tokenizer": image_tokenizer}, shapes_only=True)
    if isinstance(parts, Model) and parts.card.licenses:
        return "\n".join(f"{part}: {license}" for part, license in parts.card.licenses.items())
    raise InputError(f"{path} names no licence: ask its authors")


def _describe(model: Model) -> dict[str, Any]:
    import dataclasses

    networks: dict[str, Network] = {"denoiser": model.denoiser, "image_tokenizer": model.image_tokenizer}
    if model.weaker_denoiser is not None:
        networks["weaker_denoiser"] = model.weaker_denoiser
    if model.text_encoder is not None:
        networks["text_encoder"] = model.text_encoder.model
    return {
        **dataclasses.asdict(model.card),
        "hash": None if model.fingerprint == "unsaved" else model.fingerprint,
        "denoiser": _describe_denoiser(model.denoiser),
        "weaker_denoiser": None if model.weaker_denoiser is None else _describe_denoiser(model.weaker_denoiser),
        "condition": _condition(model),
        "classes": model.class_names,
        "null": _null(model),
        "tokens": model.num_tokens,
        "codes": model.schedule.num_codes,
        "diffusion_steps": model.schedule.num_steps,
        "schedule": {key: value for key, value in model.schedule.to_config().items() if key.endswith("_bar")},
        **_describe_tokenizer(model.image_tokenizer),
        "parameters": {name: _count(part) for name, part in networks.items()},
        "masked_nll": model.masked_nll,
        "default_settings": dataclasses.asdict(model.sampling),
        "presets": model.own_presets,
    }


def _describe_denoiser(denoiser: Denoiser) -> str:
    return ", ".join(filter(None, [type(denoiser).__name__, _sizes(denoiser.config)]))


def _describe_tokenizer(codec: ImageTokenizer) -> dict[str, Any]:
    from vqdiff.image_tokenizers import AbsentTokenizer

    if isinstance(codec, AbsentTokenizer):
        return {"image_tokenizer": f"missing: load the model with {codec.config.file}"}
    size, grid, codes = codec.config.image_size, codec.grid_size, f"{codec.num_codes} codes"
    if (whole := getattr(codec.config, "codebook_size", codec.num_codes)) > codec.num_codes:
        codes += f" that stand for {whole}"
    return {"image_tokenizer": f"{type(codec).__name__}, {size} × {size} pixels ↔ {grid} × {grid} tokens, {codes}"}


def _condition(model: Model) -> str:
    if (encoder := model.text_encoder) is not None:
        return f"text, {encoder.max_tokens} × {encoder.width} features of {type(encoder.model).__name__}"
    return f"labels 0 to {model.num_classes - 1}" if model.num_classes is not None else "none"


def _null(model: Model) -> str | None:
    if model.null_condition is not None:
        return model.null_condition.config.kind
    if model.num_classes is None:
        return None
    return "mean of the classes" if getattr(model.denoiser.config, "null_class", None) is False else "learned class"


def _sizes(config: object) -> str:
    """Depth, width and heads, as far as the configuration of a denoiser has them."""
    formats = {"depth": "{} layers", "width": "width {}", "heads": "{} heads"}
    return ", ".join(form.format(getattr(config, name)) for name, form in formats.items() if hasattr(config, name))


def _count(module: Network) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
