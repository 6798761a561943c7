"""``vqdiff vary`` and ``vqdiff revise``: noise an image and sample from there, or resample some tokens."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.images import OutputOptions, generate_from_image
from vqdiff.cli.options import ModelOptions, PromptOptions, ReviseOptions, SettingOptions, VaryOptions


def vary(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    options: VaryOptions = VaryOptions(),
    output: OutputOptions = OutputOptions(),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
) -> None:
    """Noise an image part of the way and sample from there.

    Several images become one row.

    Parameters
    ----------
    image
        The image to vary.
    prompt
        What the image is conditioned on; without it, the null condition.
    """
    from vqdiff.requests import VaryRequest

    generate_from_image(
        VaryRequest,
        image,
        prompt,
        options,
        model,
        conditions,
        settings,
        output,
    )


def revise(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    options: ReviseOptions = ReviseOptions(),
    output: OutputOptions = OutputOptions(),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
) -> None:
    """Resample the least confident tokens of an image.

    Several images become one row.

    Parameters
    ----------
    image
        The image to revise.
    prompt
        What the image is conditioned on; without it, the null condition.
    """
    from vqdiff.requests import ReviseRequest

    generate_from_image(
        ReviseRequest,
        image,
        prompt,
        options,
        model,
        conditions,
        settings,
        output,
    )
