"""Generate the images of docs/editing.md: ``python docs/figures/editing.py``."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

import vqdiff
from vqdiff import Blend, Guidance
from vqdiff.foundation.images import sheet

FOLDER = Path(__file__).parents[1] / "editing"


def ellipse(*box: int) -> Image.Image:
    """Make a mask that is white in the ellipse of a box."""
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def main() -> None:
    """Write one file per section."""
    pipe = vqdiff.load("emoji")

    def save(name: str, images: list[Image.Image], columns: int = 8) -> None:
        small = sheet([image.convert("RGB") for image in images], columns).quantize(256, dither=Image.Dither.NONE)
        small.save(FOLDER / f"{name}.png", optimize=True)

    smile = "smiling face, 3d style"
    (face,) = pipe(smile, seed=1)
    eyes, mouth = ellipse(14, 24, 112, 66), ellipse(30, 64, 98, 112)
    cool = pipe.edit(face, eyes, "smiling face with sunglasses, 3d style", seed=2)
    cheeky = pipe.edit(face, mouth, "face with tongue, 3d style")
    save("edit", [face, eyes, cool, mouth, cheeky], 5)

    (apple,) = pipe("red apple, noto style", seed=1)
    half = apple.crop((0, 0, 64, 128))
    shown = Image.new("RGB", (128, 128), "white")
    shown.paste(half)
    save("expand", [shown, *(pipe.expand(half, "red apple, noto style", right=64, seed=seed) for seed in range(3))])

    weights = (0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1)
    prompts = (smile, "angry face, 3d style")
    save("vary", [pipe.vary(face, strength, prompt)[0] for prompt in prompts for strength in weights])
    blends = (Blend("red apple, noto style", "red heart, noto style", weight) for weight in weights)
    save("between", [pipe(blend, seed=1)[0] for blend in blends])
    save("revise", [face, *(pipe.revise(face, share, smile) for share in (0, 0.05, 0.1, 0.2, 0.3, 0.5))])
    save("negative", [*pipe("flower", num_images=4), *pipe("flower", num_images=4, negative="red")])

    rising = [Guidance(scale, kind) for kind in ("linear", "cosine") for scale in (3, 5)]
    within = [Guidance(scale, interval=(0.2, 0.8)) for scale in (3, 5)]
    guided = [1, 3, *rising, *within]
    save("guidance", [pipe("house, 3d style", seed=1, guidance=guidance)[0] for guidance in guided])


if __name__ == "__main__":
    main()
