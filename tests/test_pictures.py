"""8-bit conversion and sheets."""

from __future__ import annotations

import numpy as np
import torch

from vqdiff.pictures import batches, grid, heat_map, to_images, to_pixels


def test_eight_bits_survive_the_round_trip() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(np.asarray(to_images(to_pixels(picture))[0]), picture[0])


def test_batches_are_all_pictures_in_order() -> None:
    pictures = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3)
    found = list(batches(pictures, 2))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert torch.equal(torch.cat(found), to_pixels(pictures))


def test_values_are_rounded_not_truncated() -> None:
    assert np.asarray(to_images(torch.full((1, 3, 1, 1), 0.9999))[0]).max() == 255


def test_grid_places_pictures_row_by_row() -> None:
    sheet = np.asarray(grid(torch.linspace(0, 0.8, 5).view(5, 1, 1, 1).expand(5, 3, 2, 2), columns=3, gap=1))
    assert sheet.shape == (7, 10, 3)
    assert sheet[1, 4, 0] == 51  # the second picture
    assert sheet[4, 1, 0] == 153  # the fourth
    assert sheet[4, 7, 0] == 255  # nothing


def test_heat_map_runs_from_dark_to_bright() -> None:
    image = np.asarray(heat_map(torch.tensor([[0.0, 0.5, 1.0]]), (6, 2))).sum(2).astype(int)
    assert image.shape == (2, 6)
    assert image[0, 0] < image[0, 2] < image[0, 5]
