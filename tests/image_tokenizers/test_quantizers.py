"""Quantizers: nearest codes, straight-through gradients, data-driven start, dead codes, FSQ's grid."""

from __future__ import annotations

import pytest
import torch

from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import FiniteScalarQuantizer, VectorQuantizer, code_use

pytestmark = pytest.mark.numeric


def clusters(num: int, each: int, dim: int = 4) -> torch.Tensor:
    """``num`` tight, well separated clusters of ``each`` latents."""
    centres = torch.randn(num, dim, generator=torch.Generator().manual_seed(0)) * 20
    return (centres[:, None] + 0.01 * torch.randn(num, each, dim)).flatten(0, 1)


def test_codes_are_the_nearest() -> None:
    quantizer = VectorQuantizer(16, 3).eval()
    latents = torch.randn(5, 7, 3)
    distances = torch.cdist(latents.flatten(0, 1), quantizer.codebook)
    assert torch.equal(quantizer.encode(latents).flatten(), distances.argmin(1))


def test_gradient_goes_straight_through() -> None:
    quantizer = VectorQuantizer(16, 3, commitment=0.0).eval()
    latents = torch.randn(6, 3, requires_grad=True)
    out = quantizer(latents)
    torch.testing.assert_close(out.latents, quantizer.decode(out.tokens))
    out.latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones(6, 3))


def test_training_finds_every_cluster_and_revives_dead_codes() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(24, 4, free_steps=2).train()
    latents = clusters(8, 64)
    free = quantizer(latents)
    torch.testing.assert_close(free.latents, latents)
    for _ in range(2):
        quantizer(latents)
    quantizer.codebook[4:] = quantizer.sums[4:] = 1e3  # only four codes are left to use
    for _ in range(300):
        quantizer(latents)
    quantizer.eval()
    error = (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()
    assert error < 1e-2  # a single missed cluster would cost about 400 / 8
    assert code_use(quantizer.encode(latents), 24).used > 0.8


def test_blank_code_is_for_blanks_alone() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4, free_steps=0, reserve_blank=True).train()
    latents = clusters(4, 32)
    blank = torch.arange(128) < 32
    for _ in range(400):
        tokens = quantizer(latents, blank).tokens
    assert torch.equal(tokens == 0, blank)
    torch.testing.assert_close(quantizer.codebook[0], latents[:32].mean(0), atol=0.05, rtol=0)


@pytest.mark.parametrize("levels", [(8, 8, 4, 4), (5, 3), (2,)])
def test_fsq_codes_and_grid_points_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.num_codes)
    points = quantizer.decode(codes)
    assert points.unique(dim=0).shape == (quantizer.num_codes, len(levels))
    assert points.abs().max() == 1
    # atanh of a grid point rounds back to it; the outermost points lie at infinity.
    assert torch.equal(quantizer.encode(torch.atanh(points.clamp(-0.9999, 0.9999))), codes)


def test_fsq_gradient_is_that_of_tanh() -> None:
    latents = torch.randn(6, 2, requires_grad=True)
    FiniteScalarQuantizer((5, 5))(latents).latents.sum().backward()
    torch.testing.assert_close(latents.grad, 1 - latents.detach().tanh().square())


def test_fsq_rejects_useless_levels() -> None:
    with pytest.raises(InputError, match="levels"):
        FiniteScalarQuantizer((8, 1))


def test_code_use() -> None:
    use = code_use(torch.tensor([0, 0, 1, 1]), 4)
    assert use.used == pytest.approx(0.5)
    assert use.perplexity == pytest.approx(2)
