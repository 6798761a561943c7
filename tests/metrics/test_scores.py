"""Each score against its formula written out in numpy, and at the values it must have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.metrics import (
    Estimate,
    Manifold,
    diversity,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    retrieved,
    structural_similarity,
    summary,
    text_score,
)

pytestmark = pytest.mark.numeric


def two_sets(n: int, m: int, width: int, *, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features of two correlated, differently scaled and shifted Gaussians."""
    mix = torch.randn(width, width, dtype=torch.float64)
    real = torch.randn(n, width, dtype=torch.float64) @ mix
    return real + offset, 1.2 * torch.randn(m, width, dtype=torch.float64) @ mix + 0.3 + offset


# --- Fréchet distance -------------------------------------------------------------------------------------------------


def frechet_formula(real: Tensor, generated: Tensor) -> float:
    a, b = real.double().numpy(), generated.double().numpy()
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(cov_a + cov_b - 2 * np.asarray(sqrtm(cov_a @ cov_b)).real))


@pytest.mark.parametrize(
    ("n", "m", "width"), [(200, 150, 16), (50, 60, 1), (300, 300, 64), (12, 20, 16), (16, 16, 16), (40, 3, 8)]
)
def test_frechet_distance_is_the_formula(n: int, m: int, width: int) -> None:
    real, generated = two_sets(n, m, width)
    assert frechet_distance(real, generated) == pytest.approx(frechet_formula(real, generated), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frechet_distance_sums_in_float64(dtype: torch.dtype) -> None:
    real, generated = (features.to(dtype) for features in two_sets(400, 400, 8, offset=1e4))
    exact = frechet_formula(real, generated)
    assert frechet_distance(real, generated) == pytest.approx(exact, rel=1e-6)

    single = real.float()  # what sums in float32 would make of the covariance
    covariance = (single.T @ single - len(single) * torch.outer(single.mean(0), single.mean(0))) / (len(single) - 1)
    assert not torch.allclose(covariance.double(), torch.cov(real.double().T), rtol=0.1)


def test_frechet_distance_survives_an_offset_that_defeats_sums_of_squares() -> None:
    real, generated = two_sets(400, 400, 8, offset=1e7)
    assert frechet_distance(real, generated) == pytest.approx(frechet_formula(real, generated), rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    real, _ = two_sets(100, 100, 16)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_frechet_distance_of_very_few_pictures(count: int) -> None:
    """Two points of each set on one line: (μ_a - μ_b)² + (σ_a - σ_b)² again, with 1,280 features."""
    direction = torch.nn.functional.normalize(torch.randn(1280, dtype=torch.float64), dim=0)
    real, generated = (torch.linspace(0, end, count)[:, None].double() * direction for end in (1.0, 3.0))
    sigma = float(torch.linspace(0, 1, count).std())
    assert frechet_distance(real, generated) == pytest.approx(1.0 + (2 * sigma) ** 2, rel=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    """Σ (μ_a - μ_b)² + (σ_a - σ_b)² for diagonal covariances, with samples that have exactly those moments."""
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64) * math.sqrt(3 / 4)
    real = signs * torch.tensor([1.0, 2.0])
    generated = signs * torch.tensor([3.0, 5.0]) + torch.tensor([1.0, -2.0])
    assert frechet_distance(real, generated) == pytest.approx(1 + 4 + 2**2 + 3**2, rel=1e-9)


def test_frechet_distance_needs_two_pictures() -> None:
    with pytest.raises(InputError, match="1 generated images: a covariance needs at least 2"):
        frechet_distance(torch.zeros(3, 2), torch.zeros(1, 2))


# --- kernel distance --------------------------------------------------------------------------------------------------


def unbiased_mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, aa, bb = len(a), kernel(a, a), kernel(b, b)
    within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (n * (n - 1))
    return float(within - 2 * kernel(a, b).mean())


def test_kernel_distance_is_the_formula() -> None:
    real, generated = two_sets(60, 60, 12)
    mean, std = kernel_distance(real, generated, subsets=3, subset_size=60)
    assert mean == pytest.approx(unbiased_mmd(real.numpy(), generated.numpy()), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9 * mean)


def test_kernel_distance_is_unbiased() -> None:
    """Over many pairs of small sets of one distribution the mean is 0 within its error; the diagonal would add 1."""
    pairs = torch.randn(200, 2, 10, 4)
    values = [kernel_distance(a, b, subsets=1, subset_size=10)[0] for a, b in pairs]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values)) < 0.5


def test_kernel_distance_depends_on_its_seed_alone() -> None:
    real, generated = two_sets(40, 50, 4)
    state = torch.get_rng_state()
    first = kernel_distance(real, generated, subsets=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert kernel_distance(real, generated, subsets=5) == first
    assert kernel_distance(real, generated, subsets=5, seed=1) != first
    assert kernel_distance(real, generated, subsets=5, subset_size=20) == first  # half of the smaller


@pytest.mark.parametrize("size", [1, 11])
def test_kernel_distance_refuses_impossible_subsets(size: int) -> None:
    with pytest.raises(InputError, match=f"subsets of {size} from 10"):
        kernel_distance(torch.randn(10, 2), torch.randn(12, 2), subset_size=size)


# --- inception score --------------------------------------------------------------------------------------------------


def test_inception_score_is_the_formula() -> None:
    logits = 2 * torch.randn(50, 7)
    p = logits.double().softmax(1).numpy()
    expected = np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    mean, std = inception_score(logits, splits=1)
    assert mean == pytest.approx(expected, rel=1e-9)
    assert math.isnan(std)


@given(st.integers(2, 8), st.integers(2, 5), st.floats(0, 100), st.integers(0, 100))
@settings(max_examples=25)
def test_inception_score_lies_between_one_and_the_classes(classes: int, splits: int, scale: float, seed: int) -> None:
    logits = scale * torch.randn(30, classes, generator=torch.Generator().manual_seed(seed))
    mean, std = inception_score(logits, splits=splits, seed=seed)
    assert 1 - 1e-9 <= mean <= classes + 1e-9
    assert std >= 0


def test_inception_score_at_its_bounds() -> None:
    assert inception_score(torch.ones(20, 5), splits=2) == pytest.approx((1, 0))
    certain = 1e4 * torch.eye(5).repeat(4, 1)  # probabilities that underflow to 0
    assert inception_score(certain, splits=1)[0] == pytest.approx(5)
    assert inception_score(certain[:1], splits=1)[0] == pytest.approx(1)


def test_inception_score_refuses_more_splits_than_pictures() -> None:
    with pytest.raises(InputError, match="3 images into 10"):
        inception_score(torch.ones(3, 5))


# --- diversity --------------------------------------------------------------------------------------------------------


def test_diversity_of_points_on_a_line() -> None:
    """Two captions at 0 and 10, and runs at these, 1 above and 3 above."""
    runs = [torch.tensor([[0.0], [10.0]]) + shift for shift in (0, 1, 3)]
    assert diversity(runs[:2], "ab") == pytest.approx([1 / 10])  # the others are 11 and 9 apart
    assert diversity(runs, "ab") == pytest.approx([1 / 10, 2 / 10, 3 / 10])
    assert diversity([runs[0], runs[0]], "ab") == [0]
    twice = [one.repeat(20, 1) for one in runs]
    assert diversity(twice, "ab" * 20) == pytest.approx(diversity(runs, "ab"))
    noise = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    assert diversity(list(noise), [str(i) for i in range(400)]) == pytest.approx([1], abs=0.05)
    with pytest.raises(InputError, match="add seeds"):
        diversity(runs[:1], "ab")
    with pytest.raises(InputError, match="3 of 1: add"):
        diversity(runs, "aa")


# --- manifold ---------------------------------------------------------------------------------------------------------


def manifold_by_loops(real: NDArray[np.float64], generated: NDArray[np.float64], k: int) -> Manifold:
    def radii(x: NDArray[np.float64]) -> list[float]:
        return [sorted(float(np.linalg.norm(a - b)) for b in x)[k] for a in x]

    def inside(x: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        pairs = list(zip(centres, radii(centres), strict=True))
        return np.array([[np.linalg.norm(a - centre) <= radius for centre, radius in pairs] for a in x])

    in_real, in_generated = inside(generated, real), inside(real, generated)
    return Manifold(
        precision=float(in_real.any(1).mean()),
        recall=float(in_generated.any(1).mean()),
        density=float(in_real.sum(1).mean() / k),
        coverage=float(in_real.any(0).mean()),
    )


@given(st.integers(6, 20), st.integers(6, 20), st.integers(1, 5), st.floats(-3, 3), st.integers(0, 1000))
@settings(max_examples=30)
def test_manifold_is_the_definition(n: int, m: int, neighbours: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    generated = torch.randn(m, 3, dtype=torch.float64, generator=generator) + shift
    found, expected = (f(a, b, neighbours) for f, a, b in [
        (manifold, real, generated), (manifold_by_loops, real.numpy(), generated.numpy())
    ])  # fmt: skip
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_manifold_in_chunks_is_the_same() -> None:
    real, generated = two_sets(50, 40, 4)
    whole = manifold(real, generated)
    assert manifold(real, generated, chunk_size=7) == whole
    assert 0 < whole.precision < 1


@pytest.mark.parametrize("copies", [1, 8])
def test_a_set_covers_itself(copies: int) -> None:
    """Even where a picture has more copies than neighbours, so that its ball is a point."""
    real = torch.randn(40, 64).repeat(copies, 1) + 100
    found = manifold(real, real.flip(0))
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_a_picture_on_the_border_is_inside() -> None:
    """The only neighbour of a real picture is generated again, so it lies exactly on the ball around that picture.

    Distances by matrix products round differently from a to b than from b to a, and would put some outside.
    """
    places = 100 * torch.randn(200, 3, dtype=torch.float64) + 100
    generated = places + torch.randn(200, 3, dtype=torch.float64)
    assert manifold(torch.cat([places, generated]), generated, neighbours=1).density >= 2


def test_sets_far_apart_do_not_meet() -> None:
    assert manifold(torch.randn(30, 4), torch.randn(20, 4) + 1e3) == Manifold(0.0, 0.0, 0.0, 0.0)


def test_precision_and_recall_are_not_mixed_up() -> None:
    """Generated pictures all of one kind are precise and forget the other kind."""
    one, other = torch.randn(40, 3), torch.randn(40, 3) + 100
    found = manifold(torch.cat([one, other]), one)
    assert found.precision == 1
    assert found.recall == pytest.approx(0.5)
    assert found.coverage == pytest.approx(0.5)


def test_manifold_needs_neighbours() -> None:
    with pytest.raises(InputError, match="5 real images: 5 neighbours needs at least 6"):
        manifold(torch.randn(5, 2), torch.randn(9, 2))


# --- pictures and captions --------------------------------------------------------------------------------------------


def test_text_score_is_the_cosine_of_pairs() -> None:
    images, texts = torch.tensor([[3.0, 0], [1, 1], [0, 2]]), torch.tensor([[1.0, 0], [1, 0], [0, -5]])
    torch.testing.assert_close(text_score(images, texts), torch.tensor([1.0, 2**-0.5, -1.0]))


def names(n: int) -> list[str]:
    return [f"picture {i}" for i in range(n)]


def test_random_embeddings_are_retrieved_by_chance() -> None:
    hits = retrieved(torch.randn(3000, 8), torch.randn(3000, 8), names(3000), choices=10)
    assert hits.double().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 3000))


def test_perfect_embeddings_are_all_retrieved() -> None:
    texts = torch.randn(200, 32)
    assert retrieved(3 * texts, texts * torch.rand(200, 1).add(0.1), names(200)).all()
    assert not retrieved(-texts, texts, names(200)).any()


def test_the_nearest_wrong_caption_decides() -> None:
    """With all captions as choices a picture is retrieved exactly if its own is the nearest of all."""
    images = torch.randn(50, 3)
    texts = images + 0.3 * torch.randn(50, 3)
    cosine = torch.cosine_similarity(images[:, None], texts[None], dim=-1)
    expected = cosine.argmax(1) == torch.arange(50)
    assert 0 < expected.sum() < 50
    assert torch.equal(retrieved(images, texts, names(50), choices=50), expected)


def test_an_equal_caption_is_never_a_wrong_one() -> None:
    texts = torch.randn(10, 32).repeat_interleave(5, 0)
    captions = [f"picture {i // 5}" for i in range(50)]
    assert retrieved(texts, texts, captions, choices=10).all()


@pytest.mark.parametrize("choices", [2, 7])
def test_ties_are_misses(choices: int) -> None:
    same = torch.randn(1, 333).repeat(50, 1)
    assert not retrieved(torch.randn(50, 333), same, names(50), choices=choices).any()


def test_wrong_captions_are_drawn_by_the_seed_alone() -> None:
    images, texts = torch.randn(2, 200, 4)
    state = torch.get_rng_state()
    first = retrieved(images, texts, names(200), choices=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(retrieved(images, texts, names(200), choices=5), first)
    assert not torch.equal(retrieved(images, texts, names(200), choices=5, seed=1), first)


@pytest.mark.parametrize("choices", [1, 5])
def test_too_few_different_captions(choices: int) -> None:
    with pytest.raises(InputError, match=f"among {choices} captions, as 4 differ: take 2 to 4 choices"):
        retrieved(torch.randn(8, 2), torch.randn(8, 2), names(4) * 2, choices=choices)


def test_one_caption_a_picture() -> None:
    with pytest.raises(InputError, match="3 images, 3 texts and 2 captions"):
        retrieved(torch.randn(3, 2), torch.randn(3, 2), names(2), choices=2)


# --- structural similarity --------------------------------------------------------------------------------------------


def test_structural_similarity() -> None:
    pixels = torch.rand(70, 3, 16, 16)
    assert structural_similarity(pixels, pixels) == pytest.approx(1)
    noise = torch.randn_like(pixels)
    little, much = (structural_similarity((pixels + s * noise).clamp(0, 1), pixels) for s in (0.05, 0.5))
    assert 0 < much < little < 1


def test_structural_similarity_of_constant_pictures() -> None:
    """Without contrast only the luminance term is left, (2ab + c) / (a² + b² + c) with c = 0.01²."""
    a, b, c = 0.2, 0.7, 0.01**2
    found = structural_similarity(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    assert found == pytest.approx((2 * a * b + c) / (a * a + b * b + c), rel=1e-3)


def test_every_picture_counts_the_same() -> None:
    decoded, pixels = torch.rand(2, 65, 3, 16, 16)  # one more than a batch
    each = [structural_similarity(a[None], b[None]) for a, b in zip(decoded, pixels, strict=True)]
    assert structural_similarity(decoded, pixels) == pytest.approx(np.mean(each), rel=1e-5)


# --- estimates --------------------------------------------------------------------------------------------------------


def test_summary_is_the_sample_mean_and_deviation() -> None:
    found = summary([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3, 3)
    assert found.std == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert summary([4.0]) == Estimate(4.0, None, 1, (4.0,))


@pytest.mark.parametrize(("values", "says"), [([], "no values"), ([1.0, math.nan], "nan"), ([math.inf], "inf")])
def test_summary_refuses(values: list[float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        summary(values)


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (0.8123, 0.0091, "0.812 ± 0.009"),
        (0.8123, 0.0004, "0.8123 ± 0.0004"),
        (0.8123, None, "0.812"),
        (123.4, 4.4, "123 ± 4"),
        (123.4, 0.05, "123.40 ± 0.05"),
        (-0.00001, 0.003, "-0.00001 ± 0.00300"),
        (1.0, 0.0, "1.00 ± 0.00"),
        (0.0, None, "0.00"),
        (1e-13, 0.0, "0.000000 ± 0.000000"),
    ],
)
def test_an_estimate_shows_the_digits_that_count(mean: float, std: float | None, shown: str) -> None:
    assert str(Estimate(mean, std, 5)) == shown


# --- every metric -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance, manifold])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_float_type_will_do(score: Callable[[Tensor, Tensor], object], dtype: torch.dtype) -> None:
    a, b = (features.to(dtype) for features in two_sets(30, 30, 4))
    assert score(a, b) == score(a.double(), b.double())


def test_no_warning_reaches_the_caller(recwarn: pytest.WarningsRecorder) -> None:
    kernel_distance(torch.randn(9, 2), torch.randn(9, 2))
    inception_score(torch.randn(9, 2), splits=1)
    assert not recwarn.list
