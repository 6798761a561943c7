"""Between the HTTP endpoints and the engine: from a request to its job, and from its ticket to a response."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from vqdiff.foundation.errors import about
from vqdiff.pipeline import Pipeline
from vqdiff.serving.addresses import network_of
from vqdiff.serving.engine import Engine, StoppedError
from vqdiff.serving.limits import Limits
from vqdiff.serving.running_batch import Ticket
from vqdiff.serving.schemas import Finished, RequestBody

T = TypeVar("T")


class UnknownModelError(Exception):
    """No model of that name is served."""


class Submitted:
    """A request that the engine has accepted."""

    def __init__(self, model: str, options: RequestBody, seed: int, ticket: Ticket, changed: asyncio.Event) -> None:
        self.model, self.options, self.seed, self.ticket, self.changed = model, options, seed, ticket, changed

    def finish(self) -> list[Finished]:
        """Return the images that are finished (all, unless the request was cancelled), with their settings inside."""
        job, model = self.ticket.job, self.ticket.pipe.model
        finished, remarks = list[Finished](), job.remarks(model)
        for i, (drawn, _) in sorted(self.ticket.finished.copy().items()):
            image, seed, own = job.finish(drawn), self.seed + i, job.record_of(i)
            content = base64.b64encode(self.options.encoding.encode(image, own)).decode()
            finished.append(Finished(content, seed, image.size, model.num_tokens, remarks, own))
        return finished


class Service:
    """The models by name, the engine that runs them, and the limits of a request."""

    def __init__(self, pipes: Mapping[str, Pipeline], engine: Engine, limits: Limits) -> None:
        self.pipes, self.engine, self.limits = dict(pipes), engine, limits
        # Two at a time: each computing thread has worker threads of its own, and the engine shares the processor.
        self._threads = ThreadPoolExecutor(2, "vqdiff-images")

    def pipe(self, name: str | None) -> tuple[str, Pipeline]:
        """Return a model by name, by default the first; only the names given at the start are known."""
        name = name or next(iter(self.pipes))
        if name not in self.pipes:
            raise UnknownModelError(f"no model of that name is served: choose one of {', '.join(self.pipes)}")
        return name, self.pipes[name]

    @asynccontextmanager
    async def submit(
        self,
        options: RequestBody,
        wait: ClientWait,
        *,
        previews: bool = False,
        trace: bool = False,
        changed: asyncio.Event | None = None,
    ) -> AsyncIterator[Submitted]:
        """Submit a request to the engine; leaving the block early cancels it.

        changed: set on progress, on a preview and at the end; by default the request has its own.
        """
        options.check(self.limits)
        name, pipe = self.pipe(options.model)
        seed, loop, changed = options.seeded(), asyncio.get_running_loop(), changed or asyncio.Event()

        def start() -> Ticket:
            job = options.request(pipe.model, seed, self.limits).job(pipe.model)
            with about("preset"):
                if options.preset is not None:
                    self.limits.check_steps(job.settings.steps)
                    self.limits.check_best_of(job.settings.best_of)
            notify = lambda: loop.call_soon_threadsafe(changed.set)  # noqa: E731
            return self.engine.submit(pipe, job, previews=previews, trace=trace, on_change=notify, client=wait.client)

        started = self._threads.submit(start)
        try:
            ticket = await wait(asyncio.wrap_future(started))
        except BaseException:
            started.add_done_callback(_cancel_ticket)  # the engine may have accepted it by now
            raise
        try:
            yield Submitted(name, options, seed, ticket, changed)
        finally:
            ticket.cancel()

    async def finish(self, submitted: Submitted, wait: ClientWait) -> list[Finished]:
        """Wait for the images."""
        await wait(asyncio.wrap_future(submitted.ticket))
        return await self.compute(submitted.finish, wait)

    async def compute(self, function: Callable[[], T], wait: ClientWait) -> T:
        """Run a request's own computation in the threads for it."""
        return await wait(asyncio.wrap_future(self._threads.submit(function)))

    async def draw(self, options: RequestBody, request: Request) -> BaseModel:
        """Respond to a request, unless the client disconnects or the time limit is reached."""
        async with client_wait(request, self.limits.timeout) as wait, self.submit(options, wait) as submitted:
            return options.answer(submitted.model, await self.finish(submitted, wait))

    def close(self) -> None:
        """Finish the current requests, and end the threads."""
        self.engine.stop()
        self._threads.shutdown()


class ClientGoneError(Exception):
    """The client has disconnected."""


class ClientWait:
    """Wait for results until the client disconnects or its time limit is reached."""

    def __init__(self, gone: asyncio.Task[None], deadline: float, client: str = "") -> None:
        self._gone, self._deadline, self.client = gone, deadline, client

    async def __call__(self, awaited: Awaitable[T]) -> T:
        """Return the result; raises ClientGoneError, TimeoutError, or StoppedError if the engine has cancelled it."""
        task = asyncio.ensure_future(awaited)
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait({task, self._gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.cancelled():
                raise StoppedError("the server is stopping")
            if task in done:
                return task.result()
            raise ClientGoneError if self._gone in done else TimeoutError
        finally:
            task.cancel()


@asynccontextmanager
async def client_wait(request: Request | None, timeout: float, client: str | None = None) -> AsyncIterator[ClientWait]:
    """Yield a wait for a client whose request has been read, of at most ``timeout`` seconds.

    request: None for a client that never disconnects. client: the client that the rows count for, by default the
    address of the request.
    """

    async def until_gone() -> None:
        if request is None:
            await asyncio.Event().wait()
        while request and (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(until_gone())
    try:
        client = client if request is None else network_of(request.client)
        yield ClientWait(gone, asyncio.get_running_loop().time() + timeout, client or "")
    finally:
        gone.cancel()


def _cancel_ticket(started: Future[Ticket]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().cancel()
