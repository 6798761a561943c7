"""`Pipeline.revise` with a perfect denoiser of a known distribution, on images in which wrong tokens were planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vqdiff.diffusion import Schedule
from vqdiff.foundation.images import to_images
from vqdiff.model import Model
from vqdiff.pipeline import Pipeline
from vqdiff.requests import ReviseRequest, VaryRequest, tokenize
from vqdiff.sampling import SamplingSettings

CODES, SIDE, WORDS, NOISE, TIMES = 8, 8, 30, 0.05, 50
IMAGES = 24


@dataclass(frozen=True)
class GreyConfig:
    image_size: int = 32


class Grey(nn.Module):
    """A token is the grey level of a patch of 4 × 4 pixels; nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.num_codes, self.grid_size = GreyConfig(), CODES, SIDE

    def encode(self, pixels: Tensor) -> Tensor:
        return (nn.functional.avg_pool2d(pixels.mean(1), 4) * (CODES - 1)).round().long().flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        levels = (tokens / (CODES - 1)).unflatten(1, (1, SIDE, SIDE))
        return levels.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)


class Oracle(nn.Module):
    """p(x0 | x_t), by enumeration: images are words of a list, with every token replaced with probability NOISE."""

    def __init__(self, schedule: Schedule, words: Tensor) -> None:
        super().__init__()
        self.config, self.schedule = None, schedule
        self.words = nn.Parameter(words, requires_grad=False)
        self.prior = torch.full((*words.shape, CODES), NOISE / CODES).double()  # p(x0 | word), (W, L, K)
        self.prior.scatter_add_(2, words[..., None], torch.full((*words.shape, 1), 1 - NOISE).double())

    def prepare(self, condition: Any) -> None:
        return None

    def features(self, tokens: Tensor, t: Tensor, condition: Any) -> Tensor:
        alpha, beta, _ = (one[:, None, None] for one in self.schedule.marginal(t))
        agrees = tokens[..., None] == torch.arange(CODES)
        likelihood = torch.where((tokens == CODES)[..., None], 1.0, alpha * agrees + beta)  # q(x_t | x0), (B, L, K)
        evidence = torch.einsum("blk,wlk->bwl", likelihood, self.prior)
        word = evidence.log().sum(-1).softmax(-1)  # p(word | x_t)
        joint = torch.einsum("bw,bwl,wlk->blk", word, 1 / evidence, self.prior) * likelihood
        return joint.log().float()

    def logits(self, features: Tensor) -> Tensor:
        return features

    def forward(self, tokens: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.features(tokens, t, condition)


def model_of(schedule: Schedule) -> Model:
    words = torch.randint(0, CODES, (WORDS, SIDE**2), generator=torch.Generator().manual_seed(0))
    settings = SamplingSettings(steps=16, guidance=1.0)
    denoiser: Any = Oracle(schedule, words)
    return Model(schedule, denoiser, Grey(), sampling=settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(model_of(Schedule.paper(TIMES, CODES)))


@pytest.fixture(scope="module")
def planted(pipe: Pipeline) -> tuple[Tensor, Tensor]:
    """Words, and the same with a fifth of their tokens replaced by wrong ones."""
    generator = torch.Generator().manual_seed(1)
    words = pipe.model.denoiser.words[torch.randint(0, WORDS, (IMAGES,), generator=generator)]
    wrong = (words + torch.randint(1, CODES, words.shape, generator=generator)) % CODES
    return words, torch.where(torch.rand(words.shape, generator=generator) < 0.2, wrong, words)


def image_of(tokens: Tensor) -> Image.Image:
    return to_images(Grey().decode(tokens[None]))[0]


def revised(pipe: Pipeline, images: Tensor, share: float, **settings: Any) -> Tensor:
    found = [pipe.revise(image_of(one), share, seed=seed, **settings) for seed, one in enumerate(images)]
    return torch.cat([tokenize(pipe.model, one) for one in found])


def test_more_wrong_tokens_are_mended_than_were_chosen(pipe: Pipeline, planted: tuple[Tensor, Tensor]) -> None:
    words, wrong = planted
    bad = wrong != words
    assert (revised(pipe, wrong, 0.0) == wrong).all()
    fixed, locked = (revised(pipe, wrong, 0.2, **more) for more in ({}, {"sampler": "purity"}))
    mended = [float((one == words)[bad].double().mean()) for one in (fixed, locked)]
    assert mended[0] > mended[1] + 0.05
    assert ((fixed != words) & ~bad).double().mean() < 0.005
    assert ((locked != wrong).sum(1) <= round(0.2 * SIDE**2)).all()  # only what was chosen
    assert ((fixed != wrong).sum(1) > round(0.2 * SIDE**2)).any()


@pytest.mark.parametrize(
    ("make", "named", "sampler"),
    [
        (Schedule.paper, {}, "token-fixing"),
        (Schedule.paper, {"sampler": "halton"}, "halton"),
        (Schedule.paper, {"preset": "fast"}, "purity"),
        (Schedule.paper, {"steps": 3}, "token-fixing"),
        (Schedule.mask_only, {}, "purity"),
        (Schedule.published, {}, "purity"),
        (Schedule.uniform_only, {}, "purity"),  # has no masks to reveal
    ],
)
def test_the_default_sampler_is_that_of_the_noise(
    make: Callable[[int, int], Schedule], named: dict[str, Any], sampler: str
) -> None:
    model = model_of(make(TIMES, CODES))
    assert ReviseRequest.settings_for(model, **named).sampler == sampler
    assert VaryRequest.settings_for(model, **named).sampler == named.get("sampler", "purity")
    asked = ReviseRequest(image=Image.new("L", (32, 32)), settings=ReviseRequest.settings_for(model, **named))
    assert asked.record(model)["sampler"] == sampler
    if not named:
        assert ReviseRequest(image=Image.new("L", (32, 32))).record(model)["sampler"] == sampler
    given = SamplingSettings(steps=2)
    assert ReviseRequest.settings_for(model, given) == given  # as of a record
