"""Scores of images, computed from their features.

Every number here depends on the network that made the features: name it with the number. Features may have any
floating type; sums are taken in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float

# --- two sets of images ---------------------------------------------------------------------------------------------


class _Features(nn.Module):
    """Stands in for the network that torchmetrics calls to turn images into features: the input already is features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torchmetrics' shuffles, which use the global generator of the CPU, and restore its state."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `.*` will save all extracted features", UserWarning)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the other devices too
        yield


def _in_double(features: Tensor) -> Tensor:
    return features.detach().to("cpu", torch.float64)


def _check_rows(minimum: int, purpose: str, **sets: Tensor) -> None:
    for name, features in sets.items():
        if len(features) < minimum:
            raise InputError(f"{len(features)} {name} images: {purpose} needs at least {minimum}")


def frechet_distance(real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"]) -> float:
    """Fréchet distance of two Gaussians fitted to the features, in the features' unit squared (Heusel et al. 2017).

    It is biased upwards for few images, so compare it only at equal N and M, and prefer D well below N.
    With Inception's 2048 pool features it is FID; with others it is not, and must not be called so.

    Raises InputError if a set has fewer than 2 images.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_rows(2, "a covariance", real=real, generated=generated)
    real, generated = _in_double(real), _in_double(generated)
    if min(len(real), len(generated)) <= real.shape[1]:
        return _frechet_distance_of_few(real, generated)
    metric = FrechetInceptionDistance(_Features(real.shape[1]), sync_on_compute=False)
    centre = real.mean(0)  # the distance ignores a shift; without it, sums of squares would lose the digits that count
    metric.update(real - centre, real=True)
    metric.update(generated - centre, real=False)
    return float(metric.compute())


def _frechet_distance_of_few(real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"]) -> float:
    """Compute the Fréchet distance where the covariances have no full rank and the eigenvalues of their product fail.

    With covariances A'A and B'B, those eigenvalues are the squared singular values of AB', whose sum is needed.
    """
    mean = real.mean(0) - generated.mean(0)
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (real, generated))
    mixed = torch.linalg.svdvals(a @ b.T).sum()
    return float(mean.square().sum() + a.square().sum() + b.square().sum() - 2 * mixed)


def principal_directions(features: Float[Tensor, "N D"], count: int) -> Float[Tensor, "count D"]:
    """The `count` (at most D) unit vectors along which the features vary most, in double precision."""
    return torch.linalg.eigh(torch.cov(_in_double(features).T)).eigenvectors.T.flip(0)[:count]


def kernel_distance(
    real: Float[Tensor, "N D"],
    generated: Float[Tensor, "M D"],
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (Bińkowski et al. 2018): mean and std of subsets.

    Unbiased at any number of images, so it may come out slightly below 0. The standard deviation is that of one
    subset. subset_size: number of images drawn from each set; by default half of the smaller set, at most 1000.

    Raises InputError unless 2 <= subset_size <= the smaller set.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    smaller = min(len(real), len(generated))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise InputError(f"cannot draw subsets of {size} from {smaller} images: choose 2 to {smaller}, or add images")
    with _seeded(seed):
        metric = KernelInceptionDistance(_Features(real.shape[1]), subsets, size, sync_on_compute=False)
        metric.update(_in_double(real), real=True)
        metric.update(_in_double(generated), real=False)
        mean, std = metric.compute()
    return float(mean), float(std)


@dataclass(frozen=True)
class Manifold:
    """The overlap of two sets of images; precision, recall and coverage are shares, density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(
    real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], neighbours: int = 5, *, chunk_size: int = 512
) -> Manifold:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Every image has a closed ball that reaches to its `neighbours`-th nearest neighbour in its own set. Precision:
    generated images in some real ball. Recall: real images in some generated ball. Density: real balls around a
    generated image, over `neighbours`. Coverage: real balls with a generated image in them. Distances are computed
    from `chunk_size` images at a time.

    Raises InputError if a set has no more than `neighbours` images.
    """
    _check_rows(neighbours + 1, f"{neighbours} neighbours", real=real, generated=generated)
    real, generated = _in_double(real), _in_double(generated)
    real_radius, generated_radius = (_radius(features, neighbours, chunk_size) for features in (real, generated))
    precise = balls = 0
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    for pictures, radius in zip(generated.split(chunk_size), generated_radius.split(chunk_size), strict=True):
        distance = _distances(pictures, real)
        in_real = distance <= real_radius
        precise += int(in_real.any(1).sum())
        balls += int(in_real.sum())
        covered |= in_real.any(0)
        recalled |= (distance <= radius[:, None]).any(0)
    M = len(generated)
    return Manifold(
        precise / M, float(recalled.double().mean()), balls / (neighbours * M), float(covered.double().mean())
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # not by matrix products: equal images must have equal distances to a third, or they fall outside their own ball
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radius(features: Tensor, neighbours: int, chunk_size: int) -> Tensor:
    """Distance of every image to its k-th neighbour; the nearest is itself."""
    chunks = features.split(chunk_size)
    return torch.cat([_distances(rows, features).kthvalue(neighbours + 1).values for rows in chunks])


# --- repetitions ----------------------------------------------------------------------------------------------------


def diversity(runs: Sequence[Float[Tensor, "N D"]], captions: Sequence[str]) -> list[float]:
    """How different images of the same caption are, compared with images of different captions, for pairs of runs.

    Row i of every run is an image of caption i, with another seed. Of two runs, it is the mean Euclidean distance
    between rows i and i over the mean distance between rows of different captions: 0 if the seed does not matter, 1 if
    the caption does not. For n > 2 runs there are n values, of the pairs (0, 1), (1, 2), …, (n - 1, 0).

    Raises InputError for fewer than two runs or two different captions.
    """
    if len(runs) < 2 or len(set(captions)) < 2:
        raise InputError(
            f"diversity needs two runs of two captions, and there are {len(runs)} of {len(set(captions))}: add seeds "
            "or captions"
        )
    numbers = {caption: number for number, caption in enumerate(captions)}
    own = torch.tensor([numbers[caption] for caption in captions])
    pairs = [(i, (i + 1) % len(runs)) for i in range(len(runs) if len(runs) > 2 else 1)]
    distances = [_distances(_in_double(runs[i]), _in_double(runs[j])) for i, j in pairs]
    return [float(one.diagonal().mean() / one[own[:, None] != own].mean()) for one in distances]


# --- one set of images ----------------------------------------------------------------------------------------------


def inception_score(logits: Float[Tensor, "N C"], *, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016), 1 to C: its mean and standard deviation over splits of the images.

    With one split the deviation is nan. Only with Inception's classes is the number comparable with published ones.

    Raises InputError if there are fewer images than splits.
    """
    from torchmetrics.image.inception import InceptionScore

    if not 1 <= splits <= len(logits):
        raise InputError(f"cannot split {len(logits)} images into {splits} parts: choose 1 to {len(logits)} splits")
    log_probs = _in_double(logits).log_softmax(1).clamp_min(-700)  # a class of probability 0 throughout would give nan
    with _seeded(seed):
        metric = InceptionScore(_Features(logits.shape[1]), splits, sync_on_compute=False)
        metric.update(log_probs)
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom", UserWarning)
        mean, std = metric.compute()
    return float(mean), float(std)


# --- images and captions, images and copies -----------------------------------------------------------------------


def text_score(images: Float[Tensor, "N D"], texts: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """Cosine, in -1..1, of each image with its own caption."""
    return F.cosine_similarity(images, texts, dim=-1)


def retrieved(
    images: Float[Tensor, "N D"],
    texts: Float[Tensor, "N D"],
    captions: Sequence[str],
    *,
    choices: int = 100,
    seed: int = 0,
) -> Bool[Tensor, "N"]:
    """Whether each image is nearer to its own caption than to `choices` - 1 wrong ones; the mean is R-precision.

    The wrong ones are drawn without replacement from the other captions; one with the same words is not wrong. A tie
    is a miss. The chance level is 1/choices. Equal captions must have equal rows of `texts`.

    Raises InputError if there are fewer than `choices` different captions, or not one caption per image.
    """
    if not len(images) == len(texts) == len(captions):
        raise InputError(f"{len(images)} images, {len(texts)} texts and {len(captions)} captions: give as many of each")
    first = dict[str, int]()
    for i, caption in enumerate(captions):
        first.setdefault(caption, i)
    number = {caption: i for i, caption in enumerate(first)}
    if not 2 <= choices <= len(number):
        raise InputError(
            f"cannot choose among {choices} captions, as {len(number)} differ: "
            f"take 2 to {len(number)} choices or more captions"
        )
    different = F.normalize(_in_double(texts[list(first.values())]), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    hits = list[bool]()
    for image, caption in zip(_in_double(images), captions, strict=True):
        own = number[caption]
        wrong = torch.randperm(len(number) - 1, generator=generator)[: choices - 1]
        wrong += wrong >= own
        nearness = (different[torch.cat([torch.tensor([own]), wrong])] * image).sum(-1)
        hits.append(bool((nearness[0] > nearness[1:]).all()))
    return torch.tensor(hits)


def psnr(decoded: Float[Tensor, "N 3 H W"], pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N"]:
    """Peak signal-to-noise ratio of each image in dB; pixels in [0, 1]. For equal images it is 100 dB."""
    return -10 * (decoded - pixels).square().flatten(1).mean(1).clamp_min(1e-10).log10()


def structural_similarity(decoded: Float[Tensor, "N 3 H W"], pixels: Float[Tensor, "N 3 H W"]) -> float:
    """Mean structural similarity (Wang et al. 2004: Gaussian window, σ = 1.5) of images in [0, 1]; 1 means equal."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    batches = zip(decoded.split(64), pixels.split(64), strict=True)
    scores = [structural_similarity_index_measure(*pair, reduction="none", data_range=1.0) for pair in batches]
    return float(torch.cat([score for score in scores if isinstance(score, Tensor)]).double().mean())
