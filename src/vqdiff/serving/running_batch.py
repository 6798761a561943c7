"""Images of different requests that take their steps in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce

import torch
from PIL import Image
from torch import Tensor

from vqdiff.foundation.images import to_images
from vqdiff.foundation.shapes import Int
from vqdiff.model import BoundDenoiser, Job
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import Batch, Prediction, Trace


@dataclass(frozen=True)
class Generated:
    """The finished images of a request, and their tokens."""

    images: list[Image.Image]
    tokens: Int[Tensor, "N L"]


@dataclass(frozen=True)
class EnginePreview:
    """An image after ``step`` of ``steps``, with MASK left blank; ``number`` is the engine's count of previews."""

    number: int
    step: int
    steps: int
    image: Image.Image


class Ticket(Future[Generated]):
    """A request in the engine. Its methods may be called from any thread.

    ``result`` waits for the images, or raises the error; ``cancel`` frees the rows of the request before the next step.
    `Job.finish` is applied to the images in the thread that calls `images`.
    """

    def __init__(
        self,
        pipe: Pipeline,
        job: Job,
        previews: bool,
        trace: bool,
        on_change: Callable[[], object] | None,
        client: str = "",
    ) -> None:
        super().__init__()
        self.client = client
        """The client that the rows of the request count for."""
        self.pipe, self.job, self.wants_previews, self._on_change = pipe, job, previews, on_change
        self.batch = job.start(pipe.model)
        self.encoded = job.encode(pipe.model)
        self.bound: BoundDenoiser | None = None
        self.joined = 0
        """The number of images that have left the queue."""
        self.steps = self.batch.left.tolist()
        self.taken = 0
        self.previews: dict[int, EnginePreview] = {}
        """The last preview of each image that has one, by its number in the request."""
        self.traces: list[list[Trace]] | None = [[] for _ in self.steps] if trace else None
        """A trace of each step of each image, on the CPU; None unless requested."""
        self.finished: dict[int, tuple[Image.Image, Tensor]] = {}
        self.add_done_callback(lambda _: self.notify())

    @property
    def progress(self) -> tuple[int, int]:
        """Network calls × images: done, and in total."""
        return self.taken, sum(self.steps)

    def images(self, timeout: float | None = None) -> list[Image.Image]:
        """Wait for the finished images, as `Pipeline` returns them."""
        return [self.job.finish(one) for one in self.result(timeout).images]

    def next_images(self, count: int) -> RunningBatch:
        """Return the next ``count`` images, ready for their first step."""
        # Prepared when the first image leaves the queue, so that waiting requests stay small.
        self.bound = self.bound or self.pipe.model.bind(*self.encoded)
        numbers = range(self.joined, self.joined + count)
        rows = [RunningImage(self, one) for one in numbers]
        running = RunningBatch(rows, self.batch.select(numbers), self.bound.select(numbers))
        self.joined += count
        if self.joined == len(self.steps):
            self.bound = None
        return running

    def notify(self) -> None:
        """Call ``on_change``: progress or previews have changed, or the request has ended."""
        if self._on_change is not None:
            self._on_change()

    def fail(self, error: BaseException) -> None:
        """End the request with an error, unless it has ended."""
        with suppress(InvalidStateError):
            self.set_exception(error)

    def store(self, number: int, image: Image.Image, tokens: Int[Tensor, "L"]) -> None:
        """Store a finished image; the last one ends the request."""
        self.finished[number] = (image, tokens)
        if len(self.finished) == len(self.steps):
            images, rows = zip(*(self.finished[one] for one in range(len(self.steps))), strict=True)
            with suppress(InvalidStateError):
                self.set_result(Generated(list(images), torch.stack(rows)))


@dataclass
class RunningImage:
    """One image in progress; ``shown``: the engine's count of previews when this image was last shown."""

    ticket: Ticket
    number: int
    shown: int = field(default=0)


@dataclass(frozen=True)
class RunningBatch:
    """Images with one model and one sampler, all guided or none: one network call per step for all of them."""

    rows: Sequence[RunningImage]
    batch: Batch
    bound: BoundDenoiser

    @property
    def pipe(self) -> Pipeline:
        """The model's pipeline."""
        return self.rows[0].ticket.pipe

    def select(self, numbers: Sequence[int]) -> RunningBatch | None:
        """Return these rows; None if there are none, and the batch itself if they are all."""
        if len(numbers) == len(self.rows):
            return self
        if not numbers:
            return None
        return RunningBatch([self.rows[one] for one in numbers], self.batch.select(numbers), self.bound.select(numbers))

    def join(self, other: RunningBatch) -> RunningBatch:
        """Return these rows followed by those of ``other``."""
        return RunningBatch([*self.rows, *other.rows], self.batch.join(other.batch), self.bound.join(other.bound))

    def advance(self) -> RunningBatch | None:
        """Take a step; if it fails, each request takes it alone, and those that fail again end with the error."""
        try:
            batch, prediction = self.batch.advance(self.bound)
        except Exception as error:
            tickets = list(dict.fromkeys(row.ticket for row in self.rows))
            if len(tickets) == 1:
                tickets[0].fail(error)
                return None
            apart = (self.select([i for i, row in enumerate(self.rows) if row.ticket is one]) for one in tickets)
            moved = [after for one in apart if one is not None and (after := one.advance()) is not None]
            return reduce(RunningBatch.join, moved) if moved else None
        for i, (row, left, after) in enumerate(
            zip(self.rows, self.batch.left.tolist(), batch.left.tolist(), strict=True)
        ):
            row.ticket.taken += left > 0
            row.ticket.steps[row.number] -= max(0, left - 1 - after)  # that an adaptive sampler does not need
            if not left or row.ticket.traces is None or row.ticket.done():
                continue
            try:
                row.ticket.traces[row.number].append(self._trace(i, batch, prediction))
            except Exception as error:
                row.ticket.fail(error)
        return RunningBatch(self.rows, batch, self.bound)

    def _trace(self, i: int, after: Batch, prediction: Prediction) -> Trace:
        """Return the trace of the step to ``after`` for the i-th image."""
        mask, here = after.schedule.num_codes, slice(i, i + 1)
        before, tokens = self.batch.tokens[here].cpu(), after.tokens[here].cpu()
        guided = self.batch.settings.select(here).first().guidance is not None
        confidence = prediction.select(i, guided=guided).confidence().cpu()
        return Trace(tokens[None], ((before == mask) & (tokens != mask))[None], confidence[None])

    def remove_finished(self) -> RunningBatch | None:
        """Decode the finished images; return the batch without them and without those of ended requests."""
        going = list[int]()
        for i, (row, left) in enumerate(zip(self.rows, self.batch.left.tolist(), strict=True)):
            if row.ticket.done():
                continue
            if left:
                going.append(i)
                continue
            try:
                tokens = self.batch.tokens[i].cpu()
                self.pipe.check_finished(tokens[None], row.ticket.job.settings.sampler)
                row.ticket.store(row.number, self.pipe.decode(tokens[None].to(self.batch.tokens.device))[0], tokens)
            except Exception as error:
                row.ticket.fail(error)
        return self.select(going)

    def show(self, i: int, count: int) -> None:
        """Decode the i-th image in its current state; ``count`` numbers the preview."""
        row, steps = self.rows[i], self.rows[i].ticket.steps[self.rows[i].number]
        image = to_images(self.pipe.preview(self.batch.tokens[i : i + 1]))[0]
        row.ticket.previews[row.number] = EnginePreview(count, steps - int(self.batch.left[i]), steps, image)
        row.shown = count
