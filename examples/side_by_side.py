"""Draw the same prompts and seeds with two models, the second's pictures under the first's.

python examples/side_by_side.py OTHER-MODEL emoji sheet.png examples/unseen.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import vqdiff
from vqdiff.foundation.images import sheet


def main(first: str, second: str, output: str, prompts: str) -> None:
    """One picture a line of the file ``prompts``, of seeds 0, 1, 2, …; rows of both models take turns."""
    lines = Path(prompts).read_text("utf-8").splitlines()
    drawn = [vqdiff.load(model)(lines) for model in (first, second)]
    columns = 8
    pairs = [row[start : start + columns] for start in range(0, len(lines), columns) for row in drawn]
    sheet([image for row in pairs for image in row], columns).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:5])
