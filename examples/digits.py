"""Write scikit-learn's 1,797 handwritten digits as images with captions: python examples/digits.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(folder: Path) -> None:
    """Write an image of 32 × 32 pixels for each digit, and a ``metadata.jsonl`` with captions and labels."""
    inks, labels = load_digits(return_X_y=True)
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as lines:
        for number, (ink, label) in enumerate(zip(inks, labels, strict=True)):
            name, file = NAMES[label], f"{number:04d}.png"
            paper = Image.fromarray((255 - 15.9 * ink.reshape(8, 8)).astype(np.uint8))
            paper = paper.resize((32, 32), Image.Resampling.BICUBIC)
            paper.save(folder / file)
            captions = [f"a handwritten {name}", f"the digit {name}", name]
            lines.write(json.dumps({"file_name": file, "captions": captions, "label": name}) + "\n")


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
