"""``vqdiff vary`` and ``vqdiff revise``: a picture drawn again, from noise or where it is least sure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.drawing import Drawing, Source, draw
from vqdiff.cli.options import Json, Output
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from vqdiff.pipeline import Pipeline


def vary(
    image: Path,
    prompt: str | None = None,
    /,
    *,
    strength: float = 0.5,
    num_images: Annotated[int, Parameter(name=["--num-images", "-n"])] = 1,
    output: Output = Path("out.png"),
    seed: int = 0,
    source: Source = Source(),
    drawing: Drawing = Drawing(),
    json_output: Json = False,
) -> None:
    """Noise a picture part of the way and draw it from there.

    Several pictures become one row.

    Parameters
    ----------
    image
        The picture to vary.
    prompt
        What to draw; without it, what fits.
    strength
        0 changes nothing, 1 gives a fresh picture.
    num_images
        Pictures to draw.
    output
        The PNG file to write.
    seed
        Picture i has seed + i.
    json_output
        Print a JSON record instead of a line.
    """
    if num_images < 1:
        raise InputError(f"--num-images is {num_images}: at least 1 is needed")
    from vqdiff.foundation.images import sheet

    def make(pipe: Pipeline, picture: Image.Image, **options: Any) -> Image.Image:
        images = pipe.vary(picture, strength, num_images=num_images, **options)
        return images[0] if len(images) == 1 else sheet(images, num_images)

    draw(
        make,
        image,
        source,
        drawing,
        prompt=prompt,
        seed=seed,
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
    source: Source = Source(),
    drawing: Drawing = Drawing(),
    json_output: Json = False,
) -> None:
    """Draw anew the share of a picture of which the model is least sure.

    Parameters
    ----------
    image
        The picture to revise.
    prompt
        What it shows.
    share
        0 changes nothing, 1 draws everything anew.
    output
        The PNG file to write.
    seed
        Another seed, another drawing.
    json_output
        Print a JSON record instead of a line.
    """
    draw(
        lambda pipe, picture, **options: pipe.revise(picture, share, **options),
        image,
        source,
        drawing,
        prompt=prompt,
        seed=seed,
        record={"revised": image.name, "share": share},
        output=output,
        json_output=json_output,
    )
