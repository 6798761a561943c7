"""From pictures of any size to tokens and back, without a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqdiff.foundation import fitting
from vqdiff.foundation.errors import InputError

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    width, height = size
    channels = {"RGB": 3, "RGBA": 4}[mode]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def test_a_picture_of_the_models_size_is_not_touched() -> None:
    image = noise((32, 32))
    assert fitting.fit(image, 32).tobytes() == image.tobytes()
    assert fitting.unfit(image, (32, 32)).tobytes() == image.tobytes()


@settings(deadline=None)
@given(sizes)
def test_there_and_back_keeps_size_and_place(size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").rotate(30, fillcolor=128).resize(size).convert("RGB")
    square = fitting.fit(image, 4 * max(size))
    assert square.size == (4 * max(size),) * 2
    back = fitting.unfit(square, size)
    assert back.size == size
    difference = np.abs(np.asarray(back, float) - np.asarray(image, float))
    assert difference.mean() < 6  # a shift by a pixel or a turn would be more


def test_the_square_is_filled_by_the_edge() -> None:
    image = Image.fromarray(np.array([[[10] * 3, [200] * 3]], np.uint8))  # two pixels, side by side
    assert np.asarray(fitting.fit(image, 2))[..., 0].tolist() == [[10, 200], [10, 200]]


def test_transparent_is_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert fitting.fit(image, 8).getpixel((0, 0)) == (255, 255, 255)


@settings(deadline=None)
@given(st.data())
def test_a_token_is_redrawn_if_any_pixel_of_its_patch_is(data: st.DataObject) -> None:
    grid, patch = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    side = grid * patch
    pixels = data.draw(st.lists(st.tuples(st.integers(0, side - 1), st.integers(0, side - 1)), max_size=5))
    redraw = np.zeros((side, side), bool)
    expected = torch.zeros(grid, grid, dtype=torch.bool)
    for y, x in pixels:
        redraw[y, x] = expected[y // patch, x // patch] = True
    assert (fitting.to_tokens(redraw, grid) == expected.flatten()).all()


@settings(deadline=None)
@given(sizes, st.integers(1, 16), st.data())
def test_every_white_pixel_of_every_size_has_a_token(size: tuple[int, int], grid: int, data: st.DataObject) -> None:
    width, height = size
    redraw = np.zeros((height, width), bool)
    assert not fitting.to_tokens(redraw, grid).any()
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    redraw[y, x] = True
    side = max(size)
    row, column = y + (side - height) // 2, x + (side - width) // 2
    tokens = fitting.to_tokens(redraw, grid).view(grid, grid)
    assert tokens[row * grid // side, column * grid // side]
    assert fitting.to_tokens(~np.zeros_like(redraw), grid).all()


def test_grey_counts_from_the_middle() -> None:
    mask = Image.fromarray(np.array([[0, 127], [128, 255]], np.uint8))
    assert fitting.white(mask, (2, 2)).tolist() == [[False, False], [True, True]]
    with pytest.raises(InputError, match="the mask is 2×2 pixels, the image 3×2"):
        fitting.white(mask, (3, 2))


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_pasting_leaves_the_rest_exactly(feather: int, seed: int) -> None:
    redraw = np.random.default_rng(seed).random((20, 30)) < 0.5
    image, drawn = noise((30, 20)), Image.new("RGB", (30, 20), "red")
    pasted = np.asarray(fitting.paste(drawn, image, redraw, feather))
    assert (pasted[~redraw] == np.asarray(image)[~redraw]).all()
    if not feather:
        assert (pasted[redraw] == [255, 0, 0]).all()


def test_the_seam_fades_inside_the_redrawn_part() -> None:
    redraw = np.zeros((40, 40), bool)
    redraw[:, 20:] = True
    black, white = (Image.new("RGB", (40, 40), colour) for colour in ("black", "white"))
    row = np.asarray(fitting.paste(white, black, redraw, feather=5))[20, :, 0].astype(int)
    assert (row[:20] == 0).all()
    assert (row[25:] == 255).all()
    assert (np.diff(row[19:26]) > 0).all()
    whole = fitting.paste(white, black, np.ones((40, 40), bool), feather=5)
    assert whole.tobytes() == white.tobytes()
    with pytest.raises(InputError, match="feather is -1"):
        fitting.paste(white, black, redraw, feather=-1)


def test_expanding_makes_room_and_a_mask() -> None:
    image = noise((4, 3))
    canvas, mask = fitting.expand(image, left=1, top=2, right=0, bottom=5)
    assert canvas.size == mask.size == (5, 10)
    assert canvas.crop((1, 2, 5, 5)).tobytes() == image.tobytes()
    kept = np.zeros((10, 5), bool)
    kept[2:5, 1:5] = True
    assert ((np.asarray(mask) == 0) == kept).all()
    with pytest.raises(InputError, match="right is -2"):
        fitting.expand(image, left=0, top=0, right=-2, bottom=0)
    with pytest.raises(InputError, match="nothing to add"):
        fitting.expand(image, left=0, top=0, right=0, bottom=0)
