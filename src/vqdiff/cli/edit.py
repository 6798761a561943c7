"""``vqdiff edit`` and ``vqdiff expand``: a part of a picture drawn anew, or more of it."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.drawing import Drawing, Source, draw
from vqdiff.cli.options import Json, Output


def edit(
    image: Path,
    mask: Path,
    prompt: str | None = None,
    /,
    *,
    output: Output = Path("out.png"),
    feather: int = 0,
    seed: int = 0,
    source: Source = Source(),
    drawing: Drawing = Drawing(),
    json_output: Json = False,
) -> None:
    """Draw the white part of a mask anew; all other pixels stay exactly as they are.

    A picture that is not of the model's size is padded to a square and scaled to it, and what is drawn is scaled back.

    Parameters
    ----------
    image
        The picture to edit.
    mask
        A picture of the same size: white where to draw anew, black where to keep.
    prompt
        What to draw; without it, what fits.
    output
        The PNG file to write.
    feather
        Width in pixels of a soft seam inside the white part.
    seed
        Another seed, another drawing.
    json_output
        Print a JSON record instead of a line.
    """
    from vqdiff.foundation.images import read_picture

    white = read_picture(mask)
    draw(
        lambda pipe, picture, **options: pipe.edit(picture, white, feather=feather, **options),
        image,
        source,
        drawing,
        prompt=prompt,
        seed=seed,
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
    source: Source = Source(),
    drawing: Drawing = Drawing(),
    json_output: Json = False,
) -> None:
    """Draw around a picture; its own pixels stay exactly as they are.

    Parameters
    ----------
    image
        The picture to go on from.
    prompt
        What the whole picture shows; without it, what fits.
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
        Width in pixels of a soft seam outside the picture.
    seed
        Another seed, another drawing.
    json_output
        Print a JSON record instead of a line.
    """
    margins = {"left": left, "top": top, "right": right, "bottom": bottom}
    draw(
        lambda pipe, picture, **options: pipe.expand(picture, feather=feather, **margins, **options),
        image,
        source,
        drawing,
        prompt=prompt,
        seed=seed,
        record={"expanded": image.name, "feather": feather, **margins},
        output=output,
        json_output=json_output,
    )
