"""Show the joint-distribution problem: positions that are sampled together do not agree with each other.

The data are two images of twelve tokens, all A and all B. The denoiser is exact: it knows the probabilities of A and
B at every position. Yet an image sampled in few steps mixes A and B, because the positions of one step are sampled
independently. If n positions are sampled in each step, the first n agree with probability 2^(1 - n), and the others
follow them; only one position per step is always right. With the strided sampler, the number is random, n on average,
so that even at n = 1 some positions are sampled together.

    python examples/joint_distribution.py --output joint_distribution.png
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.sampling import Denoise, SamplingSettings, Trace, sample

NUM_TOKENS = 12
SAMPLERS = ("fewer-tokens", "strided")


def oracle(schedule: Schedule, pictures: Tensor, prior: Tensor) -> Denoise:
    """Return the exact denoiser for data that consist of `pictures` (N, L) with probabilities `prior` (N,)."""
    codes = torch.nn.functional.one_hot(pictures, schedule.num_codes).to(prior)

    def denoise(tokens: Tensor, t: Tensor) -> Tensor:
        kept, replaced = schedule.alpha_bar[t][:, None, None], schedule.beta_bar[t][:, None, None]
        likelihood = torch.where(tokens[:, None] == pictures, kept + replaced, replaced)
        likelihood = likelihood.masked_fill(tokens[:, None] == schedule.num_codes, 1).clamp(min=1e-30)
        posterior = (prior.log() + likelihood.log().sum(2)).softmax(1)
        return torch.einsum("bn,nlk->blk", posterior, codes).clamp(1e-30).log()

    return denoise


def impossible_share(sampler: str, steps: int, images: int) -> float:
    """Return the share of sampled images that mix A and B."""
    schedule = Schedule.mask_only(100, 2)
    denoise = oracle(schedule, torch.tensor([[0], [1]]).expand(2, NUM_TOKENS), torch.tensor([0.5, 0.5]).double())
    settings = SamplingSettings(sampler, steps=steps, guidance=1.0)
    frames = sample(denoise, schedule, num_tokens=NUM_TOKENS, seeds=range(images), settings=settings)
    tokens = Trace.collect(frames).final
    return (tokens.amin(1) != tokens.amax(1)).double().mean().item()


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="joint_distribution.png", help="where to write the plot")
    parser.add_argument("--images", type=int, default=4000, help="images for each number")
    args = parser.parse_args()

    per_step = [n for n in range(1, NUM_TOKENS + 1) if NUM_TOKENS % n == 0]
    print("share of impossible images\ntokens per step  expected", *(f"{name:>13}" for name in SAMPLERS))
    shares: list[list[float]] = []
    for n in per_step:
        shares.append([impossible_share(name, NUM_TOKENS // n, args.images) for name in SAMPLERS])
        print(f"{n:15d}  {1 - 2.0 ** (1 - n):8.3f}", *(f"{share:13.3f}" for share in shares[-1]))

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(per_step, [1 - 2.0 ** (1 - n) for n in per_step], "k--", label=r"$1 - 2^{1-n}$")
    for name, share in zip(SAMPLERS, zip(*shares, strict=True), strict=True):
        axes.plot(per_step, share, "o-", label=name)
    axes.set(
        xlabel="tokens per step, n", ylabel="share of images mixing A and B", ylim=(0, 1), title="data: AA…A, BB…B"
    )
    axes.legend()
    figure.savefig(args.output, dpi=150)
    print(f"plot written to {args.output}")


if __name__ == "__main__":
    main()
