"""Images of different requests that take their steps in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, reduce

import torch
from PIL import Image
from torch import Tensor

from vqdiff.foundation.images import to_images
from vqdiff.foundation.shapes import Int
from vqdiff.model import BoundDenoiser, Job
from vqdiff.pipeline import Pipeline
from vqdiff.ranking import Ranker
from vqdiff.sampling import Batch, Prediction, Trace
from vqdiff.sampling.candidates import network_calls
from vqdiff.serving.contest import Contest


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
        settings, steps = job.settings, self.batch.left.view(-1, job.settings.best_of)
        self.queue = deque(range(steps.numel()))
        """The rows that wait, by number: all images, or all candidates of the first image, then of the second, …"""
        self.joined = 0
        """How often a row has left the queue."""
        self.steps: list[int] = steps.amax(1).tolist()
        """The steps of each image."""
        self.contests = [Contest(settings, own) for own in steps.tolist()] if settings.best_of > 1 else []
        """The candidates of each image, if it has several."""
        self.calls = sum(network_calls(settings, own) for own in self.steps)
        self.taken = 0
        self.previews: dict[int, EnginePreview] = {}
        """The last preview of each image that has one, by its number in the request."""
        self.traced: list[list[Trace]] | None = [[] for _ in self.queue] if trace else None
        """A trace of each step of each row, on the CPU; None unless requested."""
        self.finished: dict[int, tuple[Image.Image, Tensor]] = {}
        self.add_done_callback(lambda _: self.notify())

    @property
    def progress(self) -> tuple[int, int]:
        """Network calls × images: done, and in total."""
        return min(self.taken, self.calls), self.calls

    @property
    def traces(self) -> list[list[Trace]] | None:
        """A trace of each step of each image, when the request has ended; None unless requested."""
        if self.traced is None or not self.contests:
            return self.traced
        winners = [one.winner for one in self.contests]
        best_of = self.job.settings.best_of
        return [self.traced[image * best_of + one[0]] for image, one in enumerate(winners) if one is not None]

    def images(self, timeout: float | None = None) -> list[Image.Image]:
        """Wait for the finished images, as `Pipeline` returns them."""
        return [self.job.finish(one) for one in self.result(timeout).images]

    def next_rows(self, count: int) -> RunningBatch:
        """Return the next ``count`` rows, ready for their next step."""
        # Prepared when the first row leaves the queue, so that waiting requests stay small.
        self.bound = self.bound or self.job.bind_images(self.pipe.model, self.encoded)
        rows = [RunningImage(self, self.queue.popleft()) for _ in range(count)]
        going = [self.contests[row.image].waiting.pop(row.candidate, None) if self.contests else None for row in rows]
        parts = [one or self.batch.select([row.number]) for row, one in zip(rows, going, strict=True)]
        running = RunningBatch(rows, reduce(Batch.join, parts), self.bound.select([row.image for row in rows]))
        self.joined += count
        if not self.queue:
            self.bound = None
        return running

    def settle(self, paused: Mapping[int, Batch]) -> None:
        """Rank candidates that have paused, by the numbers of their rows; queue those that go on, store the winners."""
        best_of = self.job.settings.best_of
        for image, contest in enumerate(self.contests):
            arrived = {number % best_of: batch for number, batch in paused.items() if number // best_of == image}
            if not arrived:
                continue
            going = contest.arrive(arrived, partial(self._scores, image))
            self.queue.extendleft(image * best_of + candidate for candidate in reversed(going))
            if contest.winner is not None:
                self.finish(image, contest.winner[1].tokens[0])

    def _scores(self, image: int, candidates: Sequence[Batch], finished: bool) -> list[float]:
        ranker, tokens = Ranker(self.job, self.pipe.model, self.encoded), torch.cat([one.tokens for one in candidates])
        self.taken += len(tokens) * ranker.calls(finished=finished)
        return ranker.scores(tokens, [image] * len(tokens), finished=finished)

    def notify(self) -> None:
        """Call ``on_change``: progress or previews have changed, or the request has ended."""
        if self._on_change is not None:
            self._on_change()

    def fail(self, error: BaseException) -> None:
        """End the request with an error, unless it has ended."""
        with suppress(InvalidStateError):
            self.set_exception(error)

    def finish(self, image: int, tokens: Int[Tensor, "L"]) -> None:
        """Decode a finished image and store it; the last one ends the request."""
        self.pipe.check_finished(tokens[None], self.job.settings.sampler)
        self.finished[image] = (self.pipe.decode(tokens[None])[0], tokens.cpu())
        if len(self.finished) == len(self.steps):
            images, rows = zip(*(self.finished[one] for one in range(len(self.steps))), strict=True)
            with suppress(InvalidStateError):
                self.set_result(Generated(list(images), torch.stack(rows)))


@dataclass
class RunningImage:
    """A row: an image, or a candidate of it; ``shown``: the engine's count of previews when it was last shown."""

    ticket: Ticket
    number: int
    shown: int = field(default=0)

    @property
    def image(self) -> int:
        """The number of the image in its request."""
        return self.number // self.ticket.job.settings.best_of

    @property
    def candidate(self) -> int:
        """The number of the candidate of that image."""
        return self.number % self.ticket.job.settings.best_of


@dataclass(frozen=True)
class RunningBatch:
    """Images with one model and one sampler: one network call per step for all of them."""

    rows: Sequence[RunningImage]
    batch: Batch
    bound: BoundDenoiser

    @property
    def pipe(self) -> Pipeline:
        """The model's pipeline."""
        return self.rows[0].ticket.pipe

    def first_candidate(self, row: RunningImage) -> int:
        """Return the first of the candidates of the same image in this batch: previews show no other."""
        if not row.ticket.contests:
            return row.candidate
        return min(one.candidate for one in self.rows if one.ticket is row.ticket and one.image == row.image)

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
            row.ticket.calls -= max(0, left - 1 - after)  # that an adaptive sampler does not need
            if not left or row.ticket.traced is None or row.ticket.done():
                continue
            try:
                row.ticket.traced[row.number].append(self._trace(i, batch, prediction))
            except Exception as error:
                row.ticket.fail(error)
        return RunningBatch(self.rows, batch, self.bound)

    def _trace(self, i: int, after: Batch, prediction: Prediction) -> Trace:
        """Return the trace of the step to ``after`` for the i-th image."""
        mask, here = after.schedule.num_codes, slice(i, i + 1)
        before, tokens = self.batch.tokens[here].cpu(), after.tokens[here].cpu()
        confidence = prediction.select(i).confidence().cpu()
        return Trace(tokens[None], ((before == mask) & (tokens != mask))[None], confidence[None])

    def remove_finished(self) -> RunningBatch | None:
        """Decode the finished images; return the batch without them and without those of ended requests.

        Candidates leave it where they are ranked, and some of them return to the queue of their request.
        """
        going, paused = list[int](), dict[Ticket, dict[int, Batch]]()
        states = zip(self.rows, self.batch.taken.tolist(), self.batch.left.tolist(), strict=True)
        for i, (row, taken, left) in enumerate(states):
            ticket = row.ticket
            if ticket.done():
                continue
            if ticket.contests and ticket.contests[row.image].pauses(taken, left):
                paused.setdefault(ticket, {})[row.number] = self.batch.select([i])
            elif left:
                going.append(i)
            else:
                with _failing(ticket):
                    ticket.finish(row.image, self.batch.tokens[i])
        for ticket, rows in paused.items():
            with _failing(ticket):
                ticket.settle(rows)
        return self.select(going)

    def show(self, i: int, count: int) -> None:
        """Decode the i-th image in its current state; ``count`` numbers the preview."""
        row, steps = self.rows[i], self.rows[i].ticket.steps[self.rows[i].image]
        image = to_images(self.pipe.preview(self.batch.tokens[i : i + 1]))[0]
        row.ticket.previews[row.image] = EnginePreview(count, steps - int(self.batch.left[i]), steps, image)
        row.shown = count


@contextmanager
def _failing(ticket: Ticket) -> Iterator[None]:
    """End a request with the error of the block, if there is one."""
    try:
        yield
    except Exception as error:
        ticket.fail(error)
