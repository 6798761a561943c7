"""The sampling loop: from noise, or from tokens with holes, to clean tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, guide, purity
from vqdiff.errors import InputError
from vqdiff.sampling.plan import PlanStep, Task, masked_step
from vqdiff.sampling.random import uniforms
from vqdiff.sampling.samplers import Controls, Sampler, StepInput, get_sampler
from vqdiff.sampling.settings import SamplingSettings
from vqdiff.shapes import Bool, Float, Int

__all__ = ["Denoise", "Frame", "advance", "sample"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(tokens (N, L), t (N,)) -> logits (N, L, K), with the conditions bound by the caller.

N is B when no image is guided, else 2B, of which the last B rows are to be predicted under the null condition.
"""


@dataclass(frozen=True)
class Frame:
    """A batch after one step; tensors on the sampling device.

    step: 1..steps. tokens: int64, MASK = K where still open. revealed: positions that left MASK in this step.
    confidence: the purity of the prediction at every position, in (0, 1], before truncation and sharpening.
    """

    step: int
    steps: int
    tokens: Int[Tensor, "B L"]
    revealed: Bool[Tensor, "B L"]
    confidence: Float[Tensor, "B L"]


def sample(
    denoise: Denoise,
    schedule: Schedule,
    *,
    num_tokens: int,
    seeds: Sequence[int],
    settings: SamplingSettings | Sequence[SamplingSettings] | None = None,
    tokens: Int[Tensor, "B L"] | None = None,
    known: Bool[Tensor, "B L"] | None = None,
    start: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Frame]:
    """Sample one image a seed; yield a `Frame` after every step, the last with the finished tokens.

    An image depends on its own seed, settings and condition only, not on the batch it is in. Nothing in the loop
    waits for the device.

    settings: for all images or one each, with a sampler common to all. tokens: where to begin instead of at noise,
    MASK = K at the holes. known: positions to leave as they are in `tokens`. start: the time, 0..T, that each row of
    `tokens` is at; by default the one that fits its masked share.

    Raises InputError for settings that don't fit each other, the number of tokens or the schedule.
    """
    rows = [settings or SamplingSettings()] * len(seeds) if not isinstance(settings, Sequence) else list(settings)
    if not seeds or len(rows) != len(seeds):
        raise InputError(f"{len(seeds)} seeds and {len(rows)} settings: give at least one seed, and settings for each")
    if len({row.sampler for row in rows}) > 1:
        raise InputError("the images of a batch must share one sampler: sample them in separate batches")
    for row in rows:
        row.check(num_tokens)
    sampler = get_sampler(rows[0].sampler)

    seed = torch.tensor(seeds, device=device)
    masked = torch.full((len(rows),), num_tokens)
    time = torch.full((len(rows),), schedule.num_steps)
    if tokens is None:
        tokens = sampler.noise(schedule, uniforms(seed, 0, num_tokens, 1)[0])
    else:
        tokens = tokens.to(device)
        masked = (tokens == schedule.num_codes).sum(1).cpu()
        time = masked_step(schedule, masked.double() / num_tokens) if start is None else torch.tensor(start)
    steps = torch.tensor([row.steps for row in rows])
    columns = sampler.plan(Task(schedule, num_tokens, steps, time, masked)).columns(device)
    controls = Controls(
        *torch.tensor([(row.guidance, row.truncation, row.prior_scale) for row in rows], device=device).T
    )
    guided = any(row.guidance != 1 for row in rows)

    @torch.no_grad()
    def frames(tokens: Tensor) -> Iterator[Frame]:
        for index, now in enumerate(columns, start=1):
            u = uniforms(seed, index, num_tokens, sampler.num_uniforms)
            new, confidence = advance(denoise, schedule, sampler, tokens, now, controls, u, guided=guided, known=known)
            revealed = (tokens == schedule.num_codes) & (new != schedule.num_codes)
            tokens = new
            yield Frame(index, len(columns), tokens, revealed, confidence)

    return frames(tokens)


def advance(
    denoise: Denoise,
    schedule: Schedule,
    sampler: Sampler,
    tokens: Int[Tensor, "B L"],
    now: PlanStep,
    controls: Controls,
    u: Float[Tensor, "N B L"],
    *,
    guided: bool,
    known: Bool[Tensor, "B L"] | None = None,
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Take one step of every image: predict, guide, and let the sampler truncate, sharpen and draw.

    guided: whether any image is, which doubles the rows for `denoise`. Returns the new tokens and the confidence.
    """
    t = now.t.clamp(min=1)
    if guided:
        cond, null = denoise(tokens.repeat(2, 1), t.repeat(2)).chunk(2)
        log_p0 = guide(cond, null, controls.guidance)
    else:
        log_p0 = denoise(tokens, t).log_softmax(-1)
    new = sampler.step(StepInput(schedule, tokens, log_p0, now, controls, u))
    keep = (now.t == 0)[:, None]
    return torch.where(keep if known is None else keep | known, tokens, new), purity(log_p0)
