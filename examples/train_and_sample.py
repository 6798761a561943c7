"""Train both stages on handwritten digits and sample from the result, a few minutes on two cores.

python examples/train_and_sample.py FOLDER [KEY=VALUE ...]    # such as run.steps=10 to try it
"""

from __future__ import annotations

import sys
from pathlib import Path

from digits import write_digits

import vqdiff
from vqdiff.foundation.config import read_config
from vqdiff.foundation.images import sheet
from vqdiff.training.diffusion import DiffusionTraining, train_diffusion
from vqdiff.training.tokenizer import TokenizerTraining, train_tokenizer

CONFIGS = Path(__file__).parents[1] / "configs"


def main(folder: Path, changes: list[str]) -> None:
    """Write images, tokenizer, model and a sheet of samples into ``folder``."""
    write_digits(folder / "pictures")
    paths = [f"data={folder / 'pictures'}", f"output={folder / 'tokenizer'}"]
    train_tokenizer(read_config(TokenizerTraining, CONFIGS / "digits" / "tokenizer.toml", [*paths, *changes]))
    paths = [paths[0], f"output={folder / 'diffusion'}", f"image_tokenizer={folder / 'tokenizer' / 'image_tokenizer'}"]
    train_diffusion(read_config(DiffusionTraining, CONFIGS / "digits" / "diffusion.toml", [*paths, *changes]))
    pipe = vqdiff.load(folder / "diffusion" / "model")
    sheet(pipe(["a handwritten seven", "a handwritten three"], num_images=5), columns=5).save(folder / "samples.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
