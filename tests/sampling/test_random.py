from __future__ import annotations

from typing import Any

import pytest
import torch

from vqdiff.sampling import random, uniforms
from vqdiff.sampling.random import philox


def words(*values: int) -> Any:
    return tuple(torch.tensor(value) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """The vectors published with Random123."""
    assert tuple(int(word) for word in philox(words(*counter), words(*key))) == expected


def test_uniforms_are_fixed_for_ever() -> None:
    """Changing these numbers changes every picture that was ever described by its seed."""
    expected = [
        [[0.4172481254010002, 0.428239358331448], [0.5222049713928888, 0.5434074703911757]],
        [[0.4517265532697695, 0.9845783669483031], [0.11073222669089888, 0.31478100781008733]],
        [[0.47589958118236464, 0.5542494060826505], [0.28960524062829973, 0.16781045520154703]],
    ]
    assert uniforms(torch.tensor([0, -1]), 1, 2, 3).tolist() == expected


def test_a_number_depends_on_seed_step_position_and_draw_only() -> None:
    seeds, steps = torch.tensor([5, 2**40 + 5, 7]), torch.tensor([1, 2, 9])
    batch = uniforms(seeds, steps, 10, 4)
    for row in range(3):
        alone = uniforms(seeds[row : row + 1], int(steps[row]), 6, 3)
        torch.testing.assert_close(batch[:3, row : row + 1, :6], alone, rtol=0, atol=0)
    assert batch.unique().numel() == batch.numel()


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF])
def test_the_ends_are_excluded(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "philox", lambda *_: (torch.full((1, 1, 1), word),) * 4)
    u = uniforms(torch.tensor([0]), 0, 1, 2)
    assert ((u > 0) & (u < 1)).all()


def test_uniformity() -> None:
    u = uniforms(torch.arange(50), 3, 10_000, 2).flatten()
    for bins in (torch.histc(u, 1000, 0, 1), torch.histc(u * 2**20 % 1, 1000, 0, 1)):  # high and middle bits
        expected = u.numel() / 1000
        chi2 = ((bins - expected) ** 2 / expected).sum()
        assert abs(chi2 - 999) < 4.5 * (2 * 999) ** 0.5


def test_neighbours_are_independent() -> None:
    """Neither neighbouring positions, seeds, steps nor draws are correlated, in value or in size of deviation."""
    u = torch.stack([uniforms(torch.arange(40), step, 1000, 3) for step in range(8)])  # step, draw, seed, position
    for values in (u - 0.5, (u - 0.5) ** 2 - 1 / 12):
        for dim in range(4):
            length = u.shape[dim] - 1
            product = values.narrow(dim, 0, length) * values.narrow(dim, 1, length)
            z = product.mean() / values.var() * product.numel() ** 0.5
            assert abs(z) < 4.5, dim
