"""The bundled model keeps its images: tokens of a few seeds and edits, in float32, as they were once computed.

Processors round differently, and one token that comes out otherwise changes those after it: of each kind one image may
differ. After a change of the bundled weights, `python tests/test_pinned.py` writes the tokens again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import vqdiff

TOKENS = Path(__file__).parent / "fixtures" / "pinned_tokens.json"


def generated() -> list[list[int]]:
    """The tokens of seeds 0 to 3."""
    pipe = vqdiff.load(device="cpu", precision="float32")
    return [[frame.tokens for frame in pipe.stream("a red apple", seed=seed)][-1].tolist() for seed in range(4)]


def edited() -> list[list[int]]:
    """The tokens of four edits of a plain image."""
    pipe = vqdiff.load(device="cpu", precision="float32")
    image, mask = Image.new("RGB", (128, 128), "white"), Image.new("L", (128, 128), 0)
    ImageDraw.Draw(image).ellipse((24, 24, 104, 104), fill=(200, 30, 40))
    ImageDraw.Draw(mask).rectangle((64, 16, 127, 111), fill=255)
    images = [pipe.edit(image, mask, "a green apple", seed=seed) for seed in range(4)]
    encode = pipe.model.image_tokenizer.encode
    pixels = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).view(1, 128, 128, 3) for one in images]
    with torch.inference_mode():
        return [encode(one.permute(0, 3, 1, 2) / 255)[0].tolist() for one in pixels]


@pytest.mark.parametrize("make", [generated, edited])
def test_the_bundled_model_draws_what_it_drew(make: object) -> None:
    assert callable(make)
    pinned, now = json.loads(TOKENS.read_text())[make.__name__], make()
    assert len(pinned) == len(now)
    assert sum(before == after for before, after in zip(pinned, now, strict=True)) >= len(pinned) - 1


if __name__ == "__main__":
    TOKENS.write_text(json.dumps({make.__name__: make() for make in (generated, edited)}) + "\n")
