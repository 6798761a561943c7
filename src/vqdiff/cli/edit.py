"""``vqdiff edit`` and ``vqdiff expand``: resample a part of an image, or extend it."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.images import generate_from_image
from vqdiff.cli.options import EditOptions, ExpandOptions, Json, ModelOptions, Output, PromptOptions, SettingOptions


def edit(
    image: Path,
    mask: Path,
    prompt: str | None = None,
    /,
    *,
    options: EditOptions = EditOptions(),
    output: Output = Path("out.png"),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
    json_output: Json = False,
) -> None:
    """Resample the white part of a mask; all other pixels stay exactly as they are.

    An image that is not of the model's size is padded to a square and scaled to it; the result is scaled back.

    Parameters
    ----------
    image
        The image to edit.
    mask
        An image of the same size: white where to resample, black where to keep.
    prompt
        What the image is conditioned on; without it, the null condition.
    output
        The PNG file to write.
    json_output
        Print a JSON record instead of a line.
    """
    from vqdiff.foundation.images import read_image
    from vqdiff.requests import EditRequest

    generate_from_image(
        EditRequest,
        image,
        prompt,
        options,
        model,
        conditions,
        settings,
        mask=read_image(mask),
        record={"edited": image.name},
        output=output,
        json_output=json_output,
    )


def expand(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    options: ExpandOptions = ExpandOptions(),
    output: Output = Path("out.png"),
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
    json_output: Json = False,
) -> None:
    """Extend an image at its sides; its own pixels stay exactly as they are.

    Parameters
    ----------
    image
        The image to extend.
    prompt
        What the whole image is conditioned on; without it, the null condition.
    output
        The PNG file to write.
    json_output
        Print a JSON record instead of a line.
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
        record={"expanded": image.name},
        output=output,
        json_output=json_output,
    )
