"""``vqdiff edit`` and ``vqdiff expand``: resample a part of an image, or extend it."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.images import generate_from_image
from vqdiff.cli.options import Json, ModelOptions, Output, PromptOptions, SettingOptions


def edit(
    image: Path,
    mask: Path,
    prompt: str | None = None,
    /,
    *,
    output: Output = Path("out.png"),
    feather: int = 0,
    seed: int = 0,
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
    feather
        Width in pixels of a soft seam inside the white part.
    seed
        Another seed, another image.
    json_output
        Print a JSON record instead of a line.
    """
    from vqdiff.foundation.images import read_image
    from vqdiff.requests import EditRequest

    generate_from_image(
        EditRequest,
        image,
        prompt,
        model,
        conditions,
        settings,
        seed=seed,
        mask=read_image(mask),
        feather=feather,
        record={"edited": image.name, "feather": feather},
        output=output,
        json_output=json_output,
    )


def expand(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
    output: Output = Path("out.png"),
    feather: int = 0,
    seed: int = 0,
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
    left
        Pixels to add at the left.
    top
        Pixels to add at the top.
    right
        Pixels to add at the right.
    bottom
        Pixels to add at the bottom.
    output
        The PNG file to write.
    feather
        Width in pixels of a soft seam outside the image.
    seed
        Another seed, another image.
    json_output
        Print a JSON record instead of a line.
    """
    from vqdiff.requests import ExpandRequest

    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    generate_from_image(
        ExpandRequest,
        image,
        prompt,
        model,
        conditions,
        settings,
        seed=seed,
        feather=feather,
        **sides,
        record={"expanded": image.name, "feather": feather, **sides},
        output=output,
        json_output=json_output,
    )
