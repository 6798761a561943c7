"""``vqdiff vary`` and ``vqdiff revise``: noise an image and sample from there, or resample some tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vqdiff.cli.images import generate_from_image
from vqdiff.cli.options import Json, ModelOptions, Output, PromptOptions, SettingOptions
from vqdiff.foundation.errors import InputError


def vary(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    strength: float = 0.5,
    num_images: Annotated[int, Parameter(name=["--num-images", "-n"])] = 1,
    output: Output = Path("out.png"),
    seed: int = 0,
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
    json_output: Json = False,
) -> None:
    """Noise an image part of the way and sample from there.

    Several images become one row.

    Parameters
    ----------
    image
        The image to vary.
    prompt
        What the image is conditioned on; without it, the null condition.
    strength
        0 changes nothing, 1 generates a new image.
    num_images
        Images to generate.
    output
        The PNG file to write.
    seed
        Image i has seed + i.
    json_output
        Print a JSON record instead of a line.
    """
    if num_images < 1:
        raise InputError(f"--num-images is {num_images}: at least 1 is needed")
    from vqdiff.requests import VaryRequest

    generate_from_image(
        VaryRequest,
        image,
        prompt,
        model,
        conditions,
        settings,
        seed=seed,
        num_images=num_images,
        strength=strength,
        record={"varied": image.name, "strength": strength, "num_images": num_images},
        output=output,
        json_output=json_output,
    )


def revise(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    share: float = 0.25,
    output: Output = Path("out.png"),
    seed: int = 0,
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
    json_output: Json = False,
) -> None:
    """Resample the least confident tokens of an image.

    Parameters
    ----------
    image
        The image to revise.
    prompt
        What the image is conditioned on; without it, the null condition.
    share
        Share of the tokens: 0 changes nothing, 1 resamples everything.
    output
        The PNG file to write.
    seed
        Another seed, another image.
    json_output
        Print a JSON record instead of a line.
    """
    from vqdiff.requests import ReviseRequest

    generate_from_image(
        ReviseRequest,
        image,
        prompt,
        model,
        conditions,
        settings,
        seed=seed,
        share=share,
        record={"revised": image.name, "share": share},
        output=output,
        json_output=json_output,
    )
