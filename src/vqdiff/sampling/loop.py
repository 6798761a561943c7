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

__all__ = ["Batch", "Canvas", "Denoise", "Frame", "sample"]

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


@dataclass(frozen=True)
class Canvas:
    """Tokens to begin with instead of noise, in order to edit or vary an image.

    tokens: int64, MASK = K at the holes. known: positions that must stay as they are. start: the time, 0..T, that
    each image's tokens are at; by default the one that fits its masked share.
    """

    tokens: Int[Tensor, "B L"]
    known: Bool[Tensor, "B L"] | None = None
    start: Sequence[int] | None = None

    def check(self, schedule: Schedule, num_images: int, num_tokens: int) -> None:
        """Raise InputError unless this is a canvas for so many images of so many tokens."""
        if self.tokens.shape != (num_images, num_tokens):
            shape = tuple(self.tokens.shape)
            raise InputError(f"the canvas has tokens of shape {shape}: {(num_images, num_tokens)} is needed")
        times = [0] * num_images if self.start is None else list(self.start)
        if len(times) != num_images or not all(0 <= t <= schedule.num_steps for t in times):
            raise InputError(f"start is {times}: give a time from 0 to {schedule.num_steps} for each image")


@dataclass(frozen=True)
class Batch:
    """What stays the same for the images of a batch from step to step; one row an image.

    seeds: int64. guided: whether any image is, which doubles the rows for the denoiser. known: positions to keep.
    """

    schedule: Schedule
    sampler: Sampler
    seeds: Int[Tensor, "B"]
    controls: Controls
    guided: bool
    known: Bool[Tensor, "B L"] | None = None

    def advance(
        self, denoise: Denoise, tokens: Int[Tensor, "B L"], now: PlanStep, step: Int[Tensor, "B"] | int
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
        """Take one step: predict, guide, and let the sampler truncate, sharpen and draw.

        step: 1 for the first of an image's run, 2 for the next …, one number or one an image. Returns the new tokens
        and the confidence.
        """
        t = now.t.clamp(min=1)
        if self.guided:
            cond, null = denoise(tokens.repeat(2, 1), t.repeat(2)).chunk(2)
            log_p0 = guide(cond, null, self.controls.guidance)
        else:
            cond = null = denoise(tokens, t)
            log_p0 = cond.float().log_softmax(-1)
        u = uniforms(self.seeds, step, tokens.shape[1], self.sampler.num_uniforms)
        new = self.sampler.step(StepInput(self.schedule, tokens, log_p0, now, self.controls, u, (cond, null)))
        keep = (now.t == 0)[:, None]
        return torch.where(keep if self.known is None else keep | self.known, tokens, new), purity(log_p0)


def sample(
    denoise: Denoise,
    schedule: Schedule,
    *,
    num_tokens: int,
    seeds: Sequence[int],
    settings: SamplingSettings | Sequence[SamplingSettings] | None = None,
    sampler: Sampler | None = None,
    canvas: Canvas | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Frame]:
    """Sample one image a seed; yield a `Frame` after every step, the last with the finished tokens.

    An image depends on its own seed, settings and condition only, not on the batch it is in. Nothing in the loop
    waits for the device.

    seeds: any integers, taken modulo 2^64. settings: for all images or one each, naming one sampler for all. sampler:
    one of your own in its place. canvas: what to begin with instead of noise.

    Raises InputError, before the first step, for settings or a canvas that don't fit each other, the number of tokens
    or the schedule.
    """
    rows = list(settings) if isinstance(settings, Sequence) else [settings or SamplingSettings()] * len(seeds)
    if not seeds or len(rows) != len(seeds):
        raise InputError(f"{len(seeds)} seeds and {len(rows)} settings: give at least one seed, and settings for each")
    if len({row.sampler for row in rows}) > 1:
        raise InputError("the images of a batch must share one sampler: sample them in separate batches")
    for row in rows:
        row.check(num_tokens)

    values = torch.tensor([(row.guidance, row.truncation, row.prior_scale) for row in rows], device=device)
    guidance, truncation, prior_scale = values.T
    batch = Batch(
        schedule,
        sampler or get_sampler(rows[0].sampler),
        torch.tensor([(seed + 2**63) % 2**64 - 2**63 for seed in seeds], device=device),
        Controls(guidance, truncation if any(row.truncation < 1 for row in rows) else None, prior_scale),
        guided=any(row.guidance != 1 for row in rows),
        known=canvas.known.to(device) if canvas and canvas.known is not None else None,
    )
    if canvas is None:
        tokens = batch.sampler.noise(schedule, uniforms(batch.seeds, 0, num_tokens, 1)[0])
        masked = torch.full((len(rows),), num_tokens)
        start = torch.full((len(rows),), schedule.num_steps)
    else:
        canvas.check(schedule, len(rows), num_tokens)
        tokens = canvas.tokens.to(device)
        masked = (canvas.tokens == schedule.num_codes).sum(1).cpu()
        start = masked_step(schedule, masked / num_tokens) if canvas.start is None else torch.tensor(canvas.start)
    task = Task(schedule, num_tokens, torch.tensor([row.steps for row in rows]), start, masked)
    return _run(batch, denoise, tokens, batch.sampler.plan(task).columns(device))


@torch.no_grad()
def _run(batch: Batch, denoise: Denoise, tokens: Int[Tensor, "B L"], columns: Sequence[PlanStep]) -> Iterator[Frame]:
    for step, now in enumerate(columns, start=1):
        before = tokens
        tokens, confidence = batch.advance(denoise, before, now, step)
        mask = batch.schedule.num_codes
        yield Frame(step, len(columns), tokens, (before == mask) & (tokens != mask), confidence)
