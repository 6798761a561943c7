"""Prepared conditions that come and go one by one are those that were prepared together."""

from __future__ import annotations

import pytest
import torch

from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser

pytestmark = pytest.mark.numeric

TEXT, LABELS = {"text_width": 8}, {"num_classes": 4}


@pytest.mark.parametrize("condition", [TEXT, LABELS])
@pytest.mark.parametrize(
    "network",
    [
        lambda condition: ModernDenoiser(ModernConfig(12, 8, 4, 16, 2, 2, token_width=8, **condition)),
        lambda condition: ClassicDenoiser(ClassicConfig(12, 8, 4, 16, 2, 2, **condition)),
    ],
)
def test_rows_come_and_go(network, condition: dict[str, int]) -> None:
    denoiser = network(condition).eval()
    for weight in denoiser.parameters():
        weight.data.normal_(0, 0.3)
    rows = torch.randn(4, 5, 8) if condition is TEXT else torch.tensor([0, 3, 1, 2])
    if condition is TEXT:
        rows[1, 3:] = 0  # padding
    tokens, t = torch.randint(13, (3, 16)), torch.tensor([1, 8, 4])
    joined = denoiser.prepare(rows[:1]).join(denoiser.prepare(rows[1:3])).join(denoiser.prepare(rows[3:]))
    left = joined.select([3, 0, 1])
    torch.testing.assert_close(denoiser(tokens, t, left), denoiser(tokens, t, rows[[3, 0, 1]]))
    assert not torch.allclose(denoiser(tokens, t, left), denoiser(tokens, t, rows[[0, 3, 1]]))
