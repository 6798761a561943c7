"""Draw the same prompts and seeds with two models, the second's pictures under the first's.

python examples/side_by_side.py OTHER-MODEL emoji sheet.png "a red apple" "cat face" …
"""

from __future__ import annotations

import sys

import vqdiff
from vqdiff.pictures import sheet


def main(first: str, second: str, output: str, *prompts: str, columns: int = 8) -> None:
    """One picture a prompt, of seeds 0, 1, 2, …; each row of the first model over that of the second."""
    rows = [vqdiff.load(model)(prompts) for model in (first, second)]
    pairs = [row[start : start + columns] for start in range(0, len(prompts), columns) for row in rows]
    sheet([image for row in pairs for image in row], columns).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
