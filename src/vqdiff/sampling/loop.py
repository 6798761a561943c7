"""The sampling loop: from noise, or from partly known tokens, to clean tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.sampling.checks import check_settings
from vqdiff.sampling.guides import Away, away
from vqdiff.sampling.plan import Plan, PlanInput, masked_step
from vqdiff.sampling.prediction import Denoise, Prediction, predict
from vqdiff.sampling.random import uniforms
from vqdiff.sampling.sampler import Sampler
from vqdiff.sampling.samplers import get_sampler
from vqdiff.sampling.step import BatchSettings, StepInput
from vqdiff.settings import SamplingSettings

__all__ = ["Batch", "Canvas", "Frame", "run", "sample"]


@dataclass(frozen=True)
class Frame:
    """A batch after one step; tensors on the sampling device.

    step: 1..steps. steps: those of the whole run; of an adaptive sampler, at most, and exactly in the last frame.
    tokens: int64, MASK = K where not yet filled. revealed: positions that left MASK in this step. prediction: what the
    network predicted before the step.
    """

    step: int
    steps: int
    tokens: Int[Tensor, "B L"]
    revealed: Bool[Tensor, "B L"]
    prediction: Prediction

    @cached_property
    def confidence(self) -> Float[Tensor, "B L"]:
        """The purity of the prediction at every position; computed on first access."""
        return self.prediction.confidence()


@dataclass(frozen=True)
class Canvas:
    """Tokens to start from instead of noise, to edit or vary images.

    tokens: int64, on the CPU, MASK = K where unknown. known: positions that must stay as they are. start: the time,
    0..T, that each image's tokens are at; by default the time that corresponds to its masked share.
    """

    tokens: Int[Tensor, "B L"]
    known: Bool[Tensor, "B L"] | None = None
    start: Sequence[int] | None = None

    @classmethod
    def noised(
        cls,
        schedule: Schedule,
        sampler: Sampler,
        x0: Int[Tensor, "B L"],
        seeds: Sequence[int],
        *,
        redraw: Bool[Tensor, "B L"] | None = None,
        start: Sequence[int] | None = None,
    ) -> Canvas:
        """Noise clean tokens to the time `start`, by default T, where nothing of them is left.

        redraw: the positions to noise; the others are known and stay. None for all. If these are only some of the
        positions, the run starts at the same fraction of `start`, the time at which that share of an image is noise. An
        image resampled entirely from T is the one that its seed gives without a canvas.
        """
        start = [schedule.num_steps] * len(seeds) if start is None else start
        t = torch.tensor(start)
        noise = sampler.noise(schedule, x0, t, uniforms(_as_int64(seeds), 0, x0.shape[1], 1)[0])
        if redraw is None:
            return cls(noise, start=start)
        begin = (t * redraw.double().mean(1)).ceil()
        return cls(torch.where(redraw, noise, x0), ~redraw, [int(time) for time in begin])

    def select(self, rows: slice | Sequence[int]) -> Canvas:
        """Return the canvas of some of the images."""
        numbers = range(len(self.tokens))[rows] if isinstance(rows, slice) else rows
        index = torch.tensor(numbers, dtype=torch.int64)
        return Canvas(
            self.tokens[index],
            None if self.known is None else self.known[index],
            None if self.start is None else [self.start[number] for number in numbers],
        )

    def check(self, schedule: Schedule, num_images: int, num_tokens: int) -> None:
        """Raise InputError unless this canvas has `num_images` images of `num_tokens` tokens."""
        if self.tokens.shape != (num_images, num_tokens):
            shape = tuple(self.tokens.shape)
            raise InputError(f"the canvas has tokens of shape {shape}, but {(num_images, num_tokens)} is needed")
        times = [0] * num_images if self.start is None else list(self.start)
        if len(times) != num_images or not all(0 <= t <= schedule.num_steps for t in times):
            raise InputError(f"start is {times}: give a time from 0 to {schedule.num_steps} for each image")


@dataclass(frozen=True)
class Batch:
    """Images that are being sampled, one row each; between two steps, rows may leave (`select`) and join (`join`).

    The tokens, and which of them are known and stay, are on the sampling device. Everything else is small and on the
    CPU, so that the host knows what the next step needs without waiting: seeds, taken (the steps that each image has
    done), and the plan and the settings of the steps left.
    """

    schedule: Schedule
    sampler: Sampler
    tokens: Int[Tensor, "B L"]
    known: Bool[Tensor, "B L"]
    seeds: Int[Tensor, "B"]
    taken: Int[Tensor, "B"]
    plan: Plan
    settings: BatchSettings

    @classmethod
    def start(
        cls,
        schedule: Schedule,
        *,
        num_tokens: int,
        seeds: Sequence[int],
        settings: SamplingSettings | Sequence[SamplingSettings] | None = None,
        sampler: Sampler | None = None,
        canvas: Canvas | None = None,
        masked_nll: tuple[float, ...] = (),
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Make a batch of images before their first step. Arguments and errors are those of `sample`."""
        rows = list(settings) if isinstance(settings, Sequence) else [settings or SamplingSettings()] * len(seeds)
        if not seeds or len(rows) != len(seeds):
            raise InputError(
                f"{len(seeds)} seeds and {len(rows)} settings: give at least one seed, and settings for each"
            )
        if len({row.sampler for row in rows}) > 1:
            raise InputError("the images of a batch must share one sampler: sample them in separate batches")
        sampler = sampler or get_sampler(rows[0].sampler)
        for row in rows:
            check_settings(row, num_tokens, masked_nll, sampler)
        if canvas is None:
            nothing = torch.zeros(len(rows), num_tokens, dtype=torch.int64)
            canvas = Canvas.noised(schedule, sampler, nothing, seeds)
        canvas.check(schedule, len(rows), num_tokens)
        masked = (canvas.tokens == schedule.num_codes).sum(1)
        begin = masked_step(schedule, masked / num_tokens) if canvas.start is None else torch.tensor(canvas.start)
        steps = torch.tensor([row.steps for row in rows])
        plan = sampler.plan(PlanInput(schedule, num_tokens, steps, begin, masked, rows, masked_nll))
        known = torch.zeros_like(canvas.tokens, dtype=torch.bool) if canvas.known is None else canvas.known
        return cls(
            schedule,
            sampler,
            canvas.tokens.to(device),
            known.to(device),
            _as_int64(seeds),
            torch.zeros(len(rows), dtype=torch.int64),
            plan,
            BatchSettings.of(rows, plan.t, schedule.num_steps),
        )

    def advance(self, denoise: Denoise) -> tuple[Batch, Prediction]:
        """Take one step: predict, and let the sampler truncate, sharpen and sample where tokens are needed.

        Finished images stay as they are. Returns the batch after the step, and the prediction.
        """
        tokens, device = self.tokens, self.tokens.device
        now, settings = self.plan.first(device), self.settings.first(device)
        seeds, step = (rows.to(device, non_blocking=True) for rows in (self.seeds, self.taken + 1))
        u = uniforms(seeds, step, tokens.shape[1], self.sampler.num_uniforms)
        seen = self.sampler.before(self.schedule, tokens, now, settings, u, self.known)
        seen = torch.where(self.known, tokens, seen)
        prediction = predict(denoise, seen, now.t.clamp(min=1), settings.guidance, self._led())
        x = StepInput(self.schedule, seen, prediction, now, settings, u, self.known)
        if getattr(denoise, "batch_invariant", False):
            # Image by image: the number of positions, and so the rounding, must not depend on the other images.
            new = seen.clone()
            for row in range(len(tokens)):
                if self.plan.t[row, 0] == 0:
                    continue
                new[row] = self.sampler.step(x.of_image(row, self.plan, self.settings))[0]
        else:
            new = self.sampler.step(x)
        after = replace(
            self,
            tokens=torch.where(self.known | (now.t == 0)[:, None], tokens, new),
            taken=self.taken + 1,
            plan=self.plan.rest(),
            settings=self.settings.rest().unguided(self._agreeing(prediction, seen)),
        )
        return after._planned_anew(after.left) if self.sampler.adaptive else after, prediction

    def _led(self) -> dict[int, Away]:
        """Return what guidance leads images away from in the next step, by the numbers of those that it leads."""
        done = {row: 1 - int(self.plan.t[row, 0]) / self.schedule.num_steps for row in self.settings.guided()}
        return {row: away(self.settings.rows[row].guide, part) for row, part in done.items()}

    def _agreeing(self, prediction: Prediction, seen: Int[Tensor, "B L"]) -> list[int]:
        """Return the guided images whose guidance changes less than their threshold; the others are not looked at."""
        found = list[int]()
        for row in prediction.guided:
            if (threshold := self.settings.rows[row].guidance_threshold) > 0:
                masked = seen[row] == self.schedule.num_codes
                at = (masked if masked.any() else ~self.known[row]).nonzero()[:, 0]
                if len(at) and prediction.distance(row, at) < threshold:
                    found.append(row)
        return found

    def last(self) -> Batch:
        """Return the batch with a single step left, which fills all that is masked."""
        return self._planned_anew(torch.ones_like(self.taken))

    def _planned_anew(self, steps: Int[Tensor, "B"]) -> Batch:
        """Plan at most ``steps`` steps for what is masked now; the host waits for the device to count it."""
        num_tokens, masked = self.tokens.shape[1], (self.tokens == self.schedule.num_codes).sum(1).cpu()
        begin = masked_step(self.schedule, masked / num_tokens) if self.sampler.adaptive else self.plan.t[:, 0]
        plan = self.sampler.plan(PlanInput(self.schedule, num_tokens, steps.clamp(min=1), begin, masked))
        plan = plan.until(int((plan.t > 0).sum(1).max()))
        return replace(self, plan=plan, settings=BatchSettings.of(self.settings.rows, plan.t, self.schedule.num_steps))

    @property
    def left(self) -> Int[Tensor, "B"]:
        """The number of steps left for each image, on the CPU; 0 where it is finished."""
        return (self.plan.t > 0).sum(1)

    def select(self, rows: Sequence[int]) -> Batch:
        """Return a batch of the images with these numbers, in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in _ROWS},
            plan=self.plan.select(index),
            settings=self.settings.select(index),
        )

    def join(self, other: Batch) -> Batch:
        """Return a batch of these images and then those of `other`, which has the same schedule and sampler."""
        assert (self.schedule, self.sampler) == (other.schedule, other.sampler)
        return replace(
            self,
            **{name: torch.cat([getattr(self, name), getattr(other, name)]) for name in _ROWS},
            plan=self.plan.join(other.plan),
            settings=self.settings.join(other.settings),
        )


_ROWS = ("tokens", "known", "seeds", "taken")


def sample(
    denoise: Denoise,
    schedule: Schedule,
    *,
    num_tokens: int,
    seeds: Sequence[int],
    settings: SamplingSettings | Sequence[SamplingSettings] | None = None,
    sampler: Sampler | None = None,
    canvas: Canvas | None = None,
    masked_nll: tuple[float, ...] = (),
    device: torch.device | str = "cpu",
) -> Iterator[Frame]:
    """Sample one image per seed; yield a `Frame` after every step, the last with the finished tokens.

    An image depends on its own seed, settings and condition only, not on the batch it is in. The loop
    never waits for the device, except for adaptive samplers and for `guidance_threshold`.

    seeds: any integers, taken modulo 2^64. settings: for all images or one each, all with the same sampler. sampler:
    one of your own in its place. canvas: what to start from instead of noise. masked_nll: the model's measurement, for
    the reveal curve measured.

    Raises InputError, before the first step, for settings or a canvas that don't fit each other, the number of tokens
    or the schedule; in a step, for a guide that needs what `denoise` does not have.
    """
    batch = Batch.start(
        schedule,
        num_tokens=num_tokens,
        seeds=seeds,
        settings=settings,
        sampler=sampler,
        canvas=canvas,
        masked_nll=masked_nll,
        device=device,
    )
    return run(batch, denoise)


@torch.no_grad()
def run(batch: Batch, denoise: Denoise, seconds: float | None = None, calls: int | None = None) -> Iterator[Frame]:
    """Take all the steps of a batch; yield a `Frame` after each.

    seconds: if two more steps would end later than this, at the pace until now, the next one is the last and fills all
    that is left. So a run takes a step longer at most, if its first step does not take longer alone. calls: end with
    this step in the same way; a run that has ended early is repeated with as many as it took.
    """
    mask, step, began = batch.schedule.num_codes, 0, monotonic()
    while left := batch.plan.num_steps:
        late = seconds is not None and (monotonic() - began) * (step + 2) > seconds * step
        if step and left > 1 and (late or step + 1 == calls):
            batch = batch.last()
        before, step = batch.tokens, step + 1
        batch, prediction = batch.advance(denoise)
        revealed = (before == mask) & (batch.tokens != mask)
        yield Frame(step, step + batch.plan.num_steps, batch.tokens, revealed, prediction)


def _as_int64(seeds: Sequence[int]) -> Int[Tensor, "B"]:
    return torch.tensor([(seed + 2**63) % 2**64 - 2**63 for seed in seeds])
