"""Step-level (continuous) batching: requests join and leave the running batch between two steps of the denoiser.

Fairness: clients with images to generate share the rows equally. A free row goes to the client with the fewest rows,
and among equals to the one that has waited longest for a row; a client's own images are admitted in the order of its
requests. If a client has at least two rows more than another that waits, one of its images is suspended between two
steps for an image of the other, and continues when its client gets a row again. All admitted images take their steps in
turn.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from threading import Condition, Thread

import torch

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.threads import release_threads
from vqdiff.model import Job
from vqdiff.pipeline import Pipeline
from vqdiff.serving.running_batch import RunningBatch, Ticket

Key = tuple[int, str]
"""What the images of one network call share: the model and the sampler."""
PREVIEW_SHARE = 0.2
"""The largest share of the engine's time for previews while other requests are present."""


class QueueFullError(Exception):
    """The queue is full; `retry_after` estimates the seconds until most of it has been processed."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class StoppedError(Exception):
    """The engine accepts no more requests."""


@dataclass
class Counts:
    """What an engine has done since its start."""

    steps: int = 0
    image_steps: int = 0
    images: int = 0
    failures: int = 0
    cancelled: int = 0


def default_rows(device: torch.device) -> int:
    """Return the default number of rows: on a CPU, more than 8 are slower; on a GPU, fewer than 64 leave it idle."""
    return 8 if device.type == "cpu" else 64


class Engine:
    """A thread that owns the networks and batches the steps of the images of all requests.

    max_rows: the most images in progress at once, over all models and samplers; a guided one takes two rows of a
    network call. This bounds the memory: a waiting request keeps only its tokens and encoded condition, and the images
    it came with. max_waiting: the most requests that wait. preview_share: the largest share of the engine's time for
    previews while other requests are present.

    Requests of one model share a network call if they have the same sampler; otherwise the calls take turns. The tokens
    of a request do not depend on the other requests.
    """

    def __init__(self, *, max_rows: int = 8, max_waiting: int = 64, preview_share: float = PREVIEW_SHARE) -> None:
        if max_rows < 1 or max_waiting < 1:
            raise InputError(f"max_rows is {max_rows} and max_waiting is {max_waiting}: at least 1 is needed")
        self.max_rows, self.max_waiting, self.preview_share = max_rows, max_waiting, preview_share
        self.counts = Counts()
        self._waiting: deque[Ticket] = deque()
        self._batches: dict[Key, RunningBatch] = {}
        self._aside: list[tuple[Key, RunningBatch]] = []
        """Suspended images, one per entry: begun, and without a row now."""
        self._since = dict[str, int]()
        """For each client with images to generate, when it came or last got a row, as an increasing number."""
        self._turns = count()
        self._changed = Condition()
        self._closing = False
        self._pace = 0.0
        self._next_preview = 0.0
        self._previews = 0
        self._thread = Thread(target=self._work, name="vqdiff-engine", daemon=True)
        release_threads()  # of the thread that loaded the models
        self._thread.start()

    def submit(
        self,
        pipe: Pipeline,
        job: Job,
        *,
        previews: bool = False,
        trace: bool = False,
        on_change: Callable[[], object] | None = None,
        client: str = "",
    ) -> Ticket:
        """Queue a job; its prompts are encoded here, in the caller's thread.

        trace: record every step (`Ticket.traces`), some kilobytes per step and image. on_change: called in the engine's
        thread after each step and preview of the request and at its end; it must not block. client: the client whose
        share of the rows the request uses. Raises QueueFullError, StoppedError, and InputError for a setting that does
        not fit the model.
        """
        self._check_room(client)
        ticket = Ticket(pipe, job, previews, trace, on_change, client)
        release_threads()  # the engine's own thread computes from here on
        with self._changed:
            if (displaced := self._check_room(client)) is not None:
                self._waiting.remove(displaced)
                displaced.fail(QueueFullError(self._retry_after()))
            self._since.setdefault(client, next(self._turns))
            self._waiting.append(ticket)
            self._changed.notify()
        ticket.add_done_callback(self._count)
        return ticket

    @property
    def waiting(self) -> int:
        """The number of requests with waiting images."""
        with self._changed:
            self._forget_ended()
            return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of images in progress."""
        return sum(len(batch.rows) for batch in list(self._batches.values()))

    @property
    def alive(self) -> bool:
        """Whether requests are accepted."""
        return self._thread.is_alive() and not self._closing

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Accept no more requests, finish (or, without ``drain``, cancel) the current ones, and end the thread.

        Returns whether the thread has ended within ``timeout`` seconds.
        """
        with self._changed:
            self._closing = True
            tickets = [] if drain else self._tickets()
            self._changed.notify()
        for ticket in tickets:
            ticket.cancel()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check_room(self, client: str) -> Ticket | None:
        """Raise an error if there is no room for a request of ``client``; return the request it displaces, if any."""
        with self._changed:
            if not self.alive:
                raise StoppedError("the engine accepts no more requests")
            self._forget_ended()
            if len(self._waiting) < self.max_waiting:
                return None
            counts = Counter(ticket.client for ticket in self._waiting)
            most, number = counts.most_common(1)[0]
            if number >= counts[client] + 2:
                for ticket in reversed(self._waiting):
                    if ticket.client == most and not ticket.joined:
                        return ticket
            raise QueueFullError(self._retry_after())

    def _retry_after(self) -> float:
        return max(1.0, sum(total - done for done, total in (one.progress for one in self._waiting)) * self._pace)

    def _forget_ended(self) -> None:
        if any(ticket.done() for ticket in self._waiting):
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.done())

    def _tickets(self) -> list[Ticket]:
        batches = [*self._batches.values(), *(batch for _, batch in list(self._aside))]
        return [*self._waiting, *(row.ticket for batch in batches for row in batch.rows)]

    def _count(self, ticket: object) -> None:
        assert isinstance(ticket, Ticket)
        with self._changed:
            if ticket.cancelled():
                self.counts.cancelled += 1
            elif (error := ticket.exception()) is not None:
                self.counts.failures += not isinstance(error, QueueFullError)
            else:
                self.counts.images += len(ticket.steps)

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._has_work():
                self._admit()
                start, rows = time.monotonic(), self.running
                for key, batch in list(self._batches.items()):
                    self._remove_finished(key, batch)  # frees the rows of requests that were cancelled
                    if key in self._batches:
                        self._step(key, self._batches[key])
                self._preview()
                if rows:
                    pace = (time.monotonic() - start) / rows
                    self._pace = 0.9 * self._pace + 0.1 * pace if self._pace else pace
        except BaseException as error:  # a bug: let no request wait forever
            with self._changed:
                self._closing = True
                for ticket in self._tickets():
                    ticket.fail(error)
            raise

    def _has_work(self) -> bool:
        """Wait for requests; False when none are left and none may come."""
        with self._changed:
            self._forget_ended()
            while not self._waiting and not self._batches and not self._aside:
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _admit(self) -> None:
        """Fill the free rows, and free rows for clients that have too few."""
        while (client := self._next_client()) is not None:
            resumed = [i for i, (_, batch) in enumerate(self._aside) if batch.rows[0].ticket.client == client]
            if resumed:
                self._join(*self._aside.pop(resumed[0]))
                continue
            with self._changed:
                ticket = next((one for one in self._waiting if one.client == client and not one.done()), None)
                if ticket is None:  # it was cancelled
                    continue
                left = len(ticket.queue)
                alone = len(self._since) == 1
                number = min(self.max_rows - self.running, left) if alone else 1
                if number == left:
                    self._waiting.remove(ticket)
            try:
                batch = ticket.next_rows(number)
                self._join((id(ticket.pipe), ticket.job.settings.sampler), batch)
            except Exception as error:
                ticket.fail(error)

    def _next_client(self) -> str | None:
        """Return the client whose image gets a row now, or None."""
        rows = Counter(row.ticket.client for batch in self._batches.values() for row in batch.rows)
        self._aside = [one for one in self._aside if not one[1].rows[0].ticket.done()]
        with self._changed:
            self._forget_ended()
            wanting = {batch.rows[0].ticket.client for _, batch in self._aside} | {one.client for one in self._waiting}
            self._since = {one: since for one, since in self._since.items() if one in wanting or rows[one]}
            if not wanting:
                return None
            client = min(wanting, key=lambda one: (rows[one], self._since[one]))
            if rows.total() >= self.max_rows:
                most, number = rows.most_common(1)[0]
                if number < rows[client] + 2 or len(self._aside) >= self.max_rows:
                    return None
                self._set_aside(most)
            self._since[client] = next(self._turns)
            return client

    def _set_aside(self, client: str) -> None:
        """Suspend the image of ``client`` with the most remaining steps."""
        _, key, i = max(
            (int(running.batch.left[i]), key, i)
            for key, running in self._batches.items()
            for i, row in enumerate(running.rows)
            if row.ticket.client == client
        )
        batch = self._batches[key]
        one = batch.select([i])
        assert one is not None
        self._aside.append((key, one))
        self._put(key, batch.select([other for other in range(len(batch.rows)) if other != i]))

    def _join(self, key: Key, batch: RunningBatch) -> None:
        self._put(key, self._batches[key].join(batch) if key in self._batches else batch)

    def _step(self, key: Key, batch: RunningBatch) -> None:
        tickets = dict.fromkeys(row.ticket for row in batch.rows)
        moved = batch.advance()
        self.counts.steps += 1
        self.counts.image_steps += len(batch.rows)
        if moved is None:
            self._put(key, None)
        else:
            self._remove_finished(key, moved)
        for ticket in tickets:
            try:
                ticket.notify()
            except Exception as error:
                ticket.fail(error)

    def _remove_finished(self, key: Key, batch: RunningBatch) -> None:
        """Free the rows of finished images; candidates that go on after they were ranked wait for a row again."""
        self._put(key, batch.remove_finished())
        with self._changed:
            for ticket in {row.ticket for row in batch.rows if row.ticket.contests and row.ticket.queue}:
                if not ticket.done() and ticket not in self._waiting:
                    self._since.setdefault(ticket.client, next(self._turns))
                    self._waiting.appendleft(ticket)

    def _preview(self) -> None:
        """Preview the image that has waited longest, unless previews have had their share of the time."""
        start = time.monotonic()
        previewed = [
            (row.shown, key, i)
            for key, batch in self._batches.items()
            for i, row in enumerate(batch.rows)
            if row.ticket.wants_previews and row.candidate == batch.first_candidate(row)
        ]
        if not previewed:
            return
        _, key, i = min(previewed)
        ticket = self._batches[key].rows[i].ticket
        alone = (
            not self._waiting
            and not self._aside
            and all(row.ticket is ticket for batch in self._batches.values() for row in batch.rows)
        )
        if not alone and start < self._next_preview:
            return
        self._previews += 1
        try:
            self._batches[key].show(i, self._previews)
            ticket.notify()
        except Exception as error:
            ticket.fail(error)
        took = time.monotonic() - start
        self._next_preview = start + took / self.preview_share

    def _put(self, key: Key, batch: RunningBatch | None) -> None:
        if batch is None:
            self._batches.pop(key, None)
        else:
            self._batches[key] = batch
