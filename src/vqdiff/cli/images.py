"""Shared by the commands that generate images: requests, and PNG files with a record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqdiff.cli.options import ModelOptions, PromptOptions, SettingOptions, checked

if TYPE_CHECKING:
    from PIL import Image

    from vqdiff.pipeline import Pipeline
    from vqdiff.requests import Request
    from vqdiff.sampling import SamplingSettings
    from vqdiff.settings import SeedOptions


def write_png(picture: Image.Image, record: dict[str, Any], path: Path) -> None:
    """Write an image with a record of how it was made."""
    from vqdiff.foundation.files import atomic_path
    from vqdiff.foundation.images import encode_png

    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(picture, record))


def record_of(pipe: Pipeline, prompts: PromptOptions, settings: SamplingSettings) -> dict[str, Any]:
    """Return an image's metadata, besides prompt and seed."""
    return asdict(settings) | prompts.record() | pipe.model.identity()


def generate_from_image(
    kind: Callable[..., Request],
    image: Path,
    prompt: str | None,
    options: SeedOptions,
    model: ModelOptions,
    prompts: PromptOptions,
    settings: SettingOptions,
    *,
    record: dict[str, Any],
    output: Path,
    json_output: bool,
    **fields: object,
) -> None:
    """Run a request of a ``kind`` that starts from an image, write the result, and print a line about it.

    ``options``, ``record`` and ``fields`` are specific to this kind.
    """
    from vqdiff.foundation.files import check_writable
    from vqdiff.foundation.images import read_image, sheet

    values = checked(options)
    check_writable(output)
    given = read_image(image)
    pipe = model.load()
    chosen = pipe.settings(**vars(settings))
    common: dict[str, Any] = {"prompt": prompts.condition(prompt), "negative": prompts.negative, "settings": chosen}
    images = pipe.draw(kind(image=given, **common, **values, **fields))
    record = {"prompt": prompt} | values | record | record_of(pipe, prompts, chosen)
    write_png(images[0] if len(images) == 1 else sheet(images, len(images)), record, output)
    print(json.dumps(record | {"output": str(output)}) if json_output else f"{output}: seed {options.seed}")
