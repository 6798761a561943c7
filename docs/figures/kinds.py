"""Show twelve images of each kind of the emoji set: ``python docs/figures/kinds.py data/emoji docs/data/kinds.png``."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from PIL import Image

from vqdiff.data.splits import find
from vqdiff.foundation.images import decode, sheet

KINDS = ("drawing", "icon", "face", "recoloured", "mirrored", "moved", "ground", "scene")


def main(data: str, output: Path, size: int = 64, columns: int = 12) -> None:
    """Draw at random from the train split, one row per kind."""
    kinds = [str(row.columns["kind"]) for row in find(data, "train").rows()]
    chosen = [
        number
        for kind in KINDS
        for number in Random(0).sample([i for i, one in enumerate(kinds) if one == kind], columns)
    ]
    images = {number: decode(row.read()) for number, row in enumerate(find(data, "train").rows()) if number in chosen}
    small = [images[number].resize((size, size), Image.Resampling.BOX) for number in chosen]
    sheet(small, columns, gap=3).quantize(256, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
