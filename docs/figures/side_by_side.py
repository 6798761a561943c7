"""Generate images of the same prompts and seeds with two models, the second's below the first's.

python docs/figures/side_by_side.py OTHER-MODEL emoji sheet.png docs/figures/unseen.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import vqdiff
from vqdiff.foundation.images import sheet


def main(first: str, second: str, output: str, prompts: str) -> None:
    """Generate one image per line of the file ``prompts``, with seeds 0, 1, 2, …; the models' rows alternate."""
    lines = Path(prompts).read_text("utf-8").splitlines()
    drawn = [vqdiff.load(model)(lines) for model in (first, second)]
    columns = 8
    pairs = [row[start : start + columns] for start in range(0, len(lines), columns) for row in drawn]
    sheet([image for row in pairs for image in row], columns).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:5])
