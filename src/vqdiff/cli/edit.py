"""``vqdiff edit`` and ``vqdiff expand``: resample a part of an image, or extend it."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.images import OutputOptions, generate_from_image
from vqdiff.cli.options import EditOptions, ExpandOptions, ModelOptions, PromptOptions, SettingOptions


def edit(
    image: Path,
    mask: Path,
    prompt: str | None = None,
    /,
    *,
    options: EditOptions = EditOptions(),
    output: OutputOptions = OutputOptions(),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
) -> None:
    """Resample the white part of a mask; all other pixels stay exactly as they are.

    Several images become one row.

    An image that is not of the model's size is padded to a square and scaled to it; the result is scaled back.

    Parameters
    ----------
    image
        The image to edit.
    mask
        An image of the same size: white where to resample, black where to keep.
    prompt
        What the image is conditioned on; without it, the null condition.
    """
    from vqdiff.requests import EditRequest

    generate_from_image(
        EditRequest,
        image,
        prompt,
        options,
        model,
        conditions,
        settings,
        output,
        mask=mask,
    )


def expand(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    options: ExpandOptions = ExpandOptions(),
    output: OutputOptions = OutputOptions(),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
) -> None:
    """Extend an image at its sides; its own pixels stay exactly as they are.

    Several images become one row.

    Parameters
    ----------
    image
        The image to extend.
    prompt
        What the whole image is conditioned on; without it, the null condition.
    """
    from vqdiff.requests import ExpandRequest

    generate_from_image(
        ExpandRequest,
        image,
        prompt,
        options,
        model,
        conditions,
        settings,
        output,
    )
