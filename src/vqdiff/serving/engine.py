"""Step-level (continuous) batching: requests join and leave the running batch between two steps of the denoiser.

The rule of fairness: pictures wait in one queue, in the order in which their requests came. When a row is free, the
first picture takes it; nothing overtakes. The pictures of a large request thus go in as rows become free, and a small
request behind it waits for its turn, never for its end. All that are in take their steps in turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread

import torch

from vqdiff.errors import InputError
from vqdiff.pipeline import Pipeline
from vqdiff.serving.lane import Lane, Ticket
from vqdiff.threads import rest
from vqdiff.work import Work

PREVIEW_SHARE = 0.2
"""The most of the engine's time that previews take while other requests are there."""


class QueueFullError(Exception):
    """No more requests may wait; `retry_after` is the number of seconds in which most of the queue will be gone."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class StoppedError(Exception):
    """The engine takes no more requests."""


@dataclass
class Counts:
    """What an engine has done since it began."""

    steps: int = 0
    picture_steps: int = 0
    pictures: int = 0
    failures: int = 0
    cancelled: int = 0


def default_rows(device: torch.device) -> int:
    """Pictures a step that a device is worth: on a CPU more than 8 are slower, on a GPU fewer leave it idle."""
    return 8 if device.type == "cpu" else 64


class Engine:
    """A thread that owns the networks and steps the pictures of all requests together.

    max_rows: the most pictures under way at once, over all models and samplers; a guided one takes two rows of a
    network call. This bounds the memory: what waits keeps its tokens and encoded condition only, besides the pictures
    it came with. max_waiting: the most requests that wait.

    Requests of one model share a network call if they have the same sampler and either all are guided or none is;
    otherwise the calls take turns. A request's tokens are those that it gets alone.
    """

    def __init__(self, *, max_rows: int = 8, max_waiting: int = 64) -> None:
        if max_rows < 1 or max_waiting < 1:
            raise InputError(f"max_rows is {max_rows} and max_waiting is {max_waiting}: at least 1 is needed")
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.counts = Counts()
        self._waiting: deque[Ticket] = deque()
        self._lanes: dict[tuple[int, str, bool], Lane] = {}
        self._changed = Condition()
        self._closing = False
        self._pace = 0.0
        self._next_preview = 0.0
        self._views = 0
        self._thread = Thread(target=self._work, name="vqdiff-engine", daemon=True)
        rest()  # as whoever has loaded the models
        self._thread.start()

    def submit(
        self,
        pipe: Pipeline,
        work: Work,
        *,
        previews: bool = False,
        trace: bool = False,
        on_change: Callable[[], object] | None = None,
    ) -> Ticket:
        """Queue ``work``; what is wrong with it is raised here, in the thread of the caller, who encodes its prompts.

        trace: keep what every step did (`Ticket.traces`), some kilobytes a step and picture. on_change: called, in the
        engine's thread, after each step and preview of the request and at its end; it must not wait. Raises
        QueueFullError, StoppedError, and InputError for a setting that does not fit the model.
        """
        self._check_room()
        ticket = Ticket(pipe, work, previews, trace, on_change)
        rest()  # the engine's own thread computes from here on
        with self._changed:
            self._check_room()
            self._waiting.append(ticket)
            self._changed.notify()
        ticket.add_done_callback(self._count)
        return ticket

    @property
    def waiting(self) -> int:
        """Requests of which some pictures wait."""
        with self._changed:
            self._forget_ended()
            return len(self._waiting)

    @property
    def running(self) -> int:
        """Pictures under way."""
        return sum(len(lane.rows) for lane in list(self._lanes.values()))

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._closing

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests, finish (or, without ``drain``, cancel) those that are here, and end the thread.

        Returns whether it has ended within ``timeout`` seconds.
        """
        with self._changed:
            self._closing = True
            tickets = [] if drain else self._tickets()
            self._changed.notify()
        for ticket in tickets:
            ticket.cancel()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check_room(self) -> None:
        with self._changed:
            if not self.alive:
                raise StoppedError("the engine takes no more requests")
            self._forget_ended()
            if len(self._waiting) >= self.max_waiting:
                left = sum(sum(ticket.steps) - ticket.taken for ticket in self._waiting)
                raise QueueFullError(max(1.0, left * self._pace))

    def _forget_ended(self) -> None:
        if any(ticket.done() for ticket in self._waiting):
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.done())

    def _tickets(self) -> list[Ticket]:
        return [*self._waiting, *(row.ticket for lane in list(self._lanes.values()) for row in lane.rows)]

    def _count(self, ticket: object) -> None:
        assert isinstance(ticket, Ticket)
        with self._changed:
            if ticket.cancelled():
                self.counts.cancelled += 1
            elif ticket.exception() is not None:
                self.counts.failures += 1
            else:
                self.counts.pictures += len(ticket.steps)

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._has_work():
                self._admit()
                start, rows = time.monotonic(), self.running
                for key, lane in list(self._lanes.items()):
                    self._put(key, lane.settle())  # which frees the rows of those cancelled meanwhile
                    if key in self._lanes:
                        self._step(key, self._lanes[key])
                self._preview()
                if rows:
                    pace = (time.monotonic() - start) / rows
                    self._pace = 0.9 * self._pace + 0.1 * pace if self._pace else pace
        except BaseException as error:  # ours: nobody may wait for ever because of it
            with self._changed:
                self._closing = True
                for ticket in self._tickets():
                    ticket.fail(error)
            raise

    def _has_work(self) -> bool:
        """Wait for requests; False when there are none left and none may come."""
        with self._changed:
            self._forget_ended()
            while not self._waiting and not self._lanes:
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _admit(self) -> None:
        """Fill the free rows from the head of the queue."""
        while (free := self.max_rows - self.running) > 0:
            with self._changed:
                self._forget_ended()
                if not self._waiting:
                    return
                ticket = self._waiting[0]
                count = min(free, len(ticket.steps) - ticket.joined)
                if count == len(ticket.steps) - ticket.joined:
                    self._waiting.popleft()
            try:
                lane, key = ticket.take(count), (id(ticket.pipe), ticket.work.settings.sampler, ticket.work.guided)
                self._put(key, self._lanes[key].join(lane) if key in self._lanes else lane)
            except Exception as error:
                ticket.fail(error)

    def _step(self, key: tuple[int, str, bool], lane: Lane) -> None:
        tickets = dict.fromkeys(row.ticket for row in lane.rows)
        moved = lane.advance()
        self.counts.steps += 1
        self.counts.picture_steps += len(lane.rows)
        self._put(key, moved and moved.settle())
        for ticket in tickets:
            try:
                ticket.tell()
            except Exception as error:
                ticket.fail(error)

    def _preview(self) -> None:
        """Show the picture that has waited longest, if previews have not had their share of the time."""
        start = time.monotonic()
        asked = [
            (row.shown, key, i)
            for key, lane in self._lanes.items()
            for i, row in enumerate(lane.rows)
            if row.ticket.previews
        ]
        if not asked:
            return
        _, key, i = min(asked)
        ticket = self._lanes[key].rows[i].ticket
        alone = not self._waiting and all(row.ticket is ticket for lane in self._lanes.values() for row in lane.rows)
        if not alone and start < self._next_preview:
            return
        self._views += 1
        try:
            self._lanes[key].show(i, self._views)
            ticket.tell()
        except Exception as error:
            ticket.fail(error)
        took = time.monotonic() - start
        self._next_preview = start + took / PREVIEW_SHARE

    def _put(self, key: tuple[int, str, bool], lane: Lane | None) -> None:
        if lane is None:
            self._lanes.pop(key, None)
        else:
            self._lanes[key] = lane
