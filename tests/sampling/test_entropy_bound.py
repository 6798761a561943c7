"""The sampler entropy-bound: how many positions a step reveals, and how many steps a run takes."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor
from torch.special import entr

from vqdiff.diffusion import Schedule
from vqdiff.sampling import Frame, SamplingSettings, sample

pytestmark = pytest.mark.numeric

LOGITS = 3 * torch.randn(24, 8, generator=torch.Generator().manual_seed(0))


def independent(tokens: Tensor, t: Tensor) -> Tensor:
    """Independent tokens, of very different entropies."""
    return (LOGITS * torch.linspace(0.1, 2, 24)[:, None]).expand(len(tokens), 24, 8)


def run(seeds: list[int], *settings: SamplingSettings) -> list[Frame]:
    return list(sample(independent, Schedule.mask_only(50, 8), num_tokens=24, seeds=seeds, settings=list(settings)))


def asked(error: float, steps: int = 24, **more: float) -> SamplingSettings:
    return SamplingSettings("entropy-bound", steps, guidance=1.0, error=error, prior_scale=0.0, **more)


@pytest.mark.parametrize("error", [1e-9, 0.5, 2.0, 1e6])
def test_a_step_reveals_the_longest_prefix_within_the_bound(error: float) -> None:
    frames = run([3], asked(error))
    entropy = entr(independent(torch.zeros(1, 24), torch.ones(1)).softmax(-1)).sum(-1)[0]
    masked = torch.ones(24, dtype=torch.bool)
    for frame in frames:
        first = entropy.masked_fill(~masked, torch.inf).argsort()
        count = int(frame.revealed[0].sum())
        assert set(first[:count].tolist()) == set(frame.revealed[0].nonzero()[:, 0].tolist())
        assert entropy[first[: count - 1]].sum() <= error + 1e-5
        masked &= ~frame.revealed[0]
        assert not masked.any() or entropy[first[:count]].sum() > error - 1e-5
    assert not masked.any()
    assert frames[-1].step == frames[-1].steps == len(frames)
    assert (len(frames) == 24) == (error == 1e-9)
    assert (len(frames) == 1) == (error == 1e6)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_no_more_steps_than_requested_are_taken(steps: int) -> None:
    for error in (0.0, 1e-9):
        frames = run([3], asked(error, steps))
        assert [frame.step for frame in frames] == list(range(1, steps + 1))
        assert frames[-1].tokens.max() < 8


def test_without_a_bound_each_step_has_its_share_of_the_entropy() -> None:
    """Of independent tokens the entropy does not change, so that every step gets about the same: a sixth of all."""
    entropy = entr(independent(torch.zeros(1, 24), torch.ones(1)).softmax(-1)).sum(-1)[0]
    frames = run([3], asked(0.0, 6))
    shares = [float(entropy[frame.revealed[0]].sum() / entropy.sum()) for frame in frames]
    assert max(shares) < 1 / 6 + float(entropy.max() / entropy.sum())
    assert int(frames[0].revealed.sum()) > 2 * int(frames[-1].revealed.sum()) > 0  # the nearly certain ones come first


def test_pairs_that_agree_are_not_drawn_together() -> None:
    """Half of the images are AA, half BB: the error of drawing both at once is log 2, the entropy of the second."""

    def agree(tokens: Tensor, t: Tensor) -> Tensor:
        other = tokens.flip(1)
        known = torch.nn.functional.one_hot(other.clamp(max=1), 2).log().clamp(min=-60)
        return torch.where((other == 2)[..., None], torch.tensor(0.5).log(), known)

    drawn = {
        error: list(
            sample(
                agree,
                Schedule.mask_only(10, 2),
                num_tokens=2,
                seeds=range(100),
                settings=SamplingSettings("entropy-bound", 2, guidance=1.0, error=error, prior_scale=0.0),
            )
        )
        for error in (log(2) - 0.01, log(2) + 0.01)
    }
    (careful, careless) = drawn.values()
    assert (len(careful), len(careless)) == (2, 1)
    assert (careful[-1].tokens[:, 0] == careful[-1].tokens[:, 1]).all()
    assert 30 < (careless[-1].tokens[:, 0] == careless[-1].tokens[:, 1]).sum() < 70


def test_images_of_a_batch_take_the_steps_that_each_of_them_needs() -> None:
    settings = [asked(0.7), asked(3.0, temperature=0.5), asked(0.0, 5), asked(1e6)]
    seeds = [3, 4, 5, 6]
    together = run(seeds, *settings)
    assert len(together) == max(len(run([seed], one)) for seed, one in zip(seeds, settings, strict=True))
    for row, (seed, one) in enumerate(zip(seeds, settings, strict=True)):
        alone = run([seed], one)
        assert (alone[-1].tokens[0] == together[-1].tokens[row]).all()
        revealed = torch.stack([frame.revealed[row].sum() for frame in together])
        assert revealed.count_nonzero() == len(alone)
