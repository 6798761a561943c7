"""TCP connections: how many there may be, how long a header may take, and how they are closed.

Uvicorn waits for a header for ever, reads what follows an answer without limit, and closes with bytes unread, on which
the client may see a reset in place of its answer. A `Connection` stands between uvicorn's protocol and its transport
and sees to all of that. It needs nothing of uvicorn but what every `asyncio.Protocol` has, the arguments of its
constructor, and that ``app_state`` comes back as the ``state`` of a scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from fastapi import HTTPException
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from vqdiff.foundation.errors import InputError
from vqdiff.serving.addresses import network_of
from vqdiff.serving.errors import failure_of

RESERVE = 16
"""Connections beyond the most allowed, on which health checks are answered and all else is refused."""
GRACE = 2.0
"""Seconds without a request after which a connection may be closed to make room for a new one."""
HASTE = 0.2
"""The same for those beyond the most allowed."""
LINGER_BYTES = 2**20
"""Bytes that are read and thrown away after an answer whose request has not been read to its end."""
LINGER_SECONDS = 5.0
"""Seconds that this may take."""
_STATE = "vqdiff.connection"


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be, and how long they may be without a request."""

    total: int = 512
    per_address: int = 256
    """Of one IPv4 address, or of one IPv6 network of 64 bits."""
    header_timeout: float = 10.0
    """Seconds from connecting, or from the last answer, to a complete header."""
    flush_timeout: float = 120.0
    """Seconds in which a client takes the end of an answer."""

    def __post_init__(self) -> None:
        options = ("max-connections", "max-connections-per-address", "header-timeout", "timeout")
        for option, value in zip(options, vars(self).values(), strict=True):
            if not value > 0:
                raise InputError(f"--{option} is {value}: it must be above 0")


class Pool:
    """The open connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open = set[Connection]()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool | None:
        """Take a connection in: True, False if it may ask for nothing but health checks, None if there is no room.

        Where there is none, a connection that has had no request for a while is closed for it.
        """
        room = True
        for address, most in ((connection.address, self.limits.per_address), (None, self.limits.total)):
            group = [one for one in self._open if address in (None, one.address)]
            if len(group) >= most and (idle := [one for one in group if one.expendable]):
                least = min(idle, key=lambda one: one.worth)
                self.remove(least)
                least.abort()
                group.remove(least)
            if len(group) >= most + RESERVE:
                return None
            room = room and len(group) < most
        self._open.add(connection)
        return room

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)


class Connection(asyncio.Protocol):
    """A connection: the protocol of the real transport, and the transport of uvicorn's protocol."""

    def __init__(
        self, pool: Pool, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self.address, self.crowded = "", False
        """crowded: beyond the most allowed."""
        self._pool, self._loop = pool, _loop or asyncio.get_running_loop()
        self._inner = H11Protocol(config, server_state, app_state | {_STATE: self}, self._loop)
        self._requests, self._served, self._idle_since = 0, False, self._loop.time()
        self._unread = False
        """Whether something may come that is no part of the next request."""
        self._heard = False
        """Whether a part of a header may have come."""
        self._admitted = self._closing = False
        """admitted: uvicorn's protocol has been told that it is connected, and not that it is no more."""
        self._drained = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expendable(self) -> bool:
        """Whether it has had no request for a while, or is about to be closed."""
        idle = self._loop.time() - self._idle_since
        return self._closing or (not self._requests and idle > (HASTE if self.crowded else GRACE))

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """In which order connections are closed to make room: those that have never had a request come early."""
        return not self._closing, self._served, self._idle_since

    @contextmanager
    def request(self) -> Iterator[None]:
        """The time in which a request, of which the header is complete, is answered."""
        self._requests, self._heard, self._unread = self._requests + 1, False, True
        self._stop_timer()
        try:
            yield
        finally:
            self._requests -= 1
            self._served, self._idle_since = True, self._loop.time()
            self._await_header()

    def note_complete(self) -> None:
        """The request has been read to its end."""
        self._unread = False

    # The transport of uvicorn's protocol: all that it asks of one.

    def close(self) -> None:
        """Hang up when all is sent and the client has hung up, or has had some time to."""
        if self._closing:
            return
        self._stop_timer()
        self._closing = True
        if (self._unread or self._heard) and self._transport.can_write_eof():
            # With bytes unread the system would send a reset, which can overtake the answer.
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._pool.limits.flush_timeout, self.abort)
            self._transport.set_write_buffer_limits(0)  # writing is resumed when all is sent
        else:
            self._linger()

    def abort(self) -> None:
        """Hang up at once."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(data)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    # The protocol of the real transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = network_of(transport.get_extra_info("peername"))
        room = self._pool.admit(self)
        if room is None:
            return self.abort()
        self._admitted, self.crowded = True, not room
        self._inner.connection_made(cast(asyncio.Transport, self))
        return self._await_header()

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._heard = not self._requests
            return self._inner.data_received(data)
        self._drained += len(data)
        if self._drained > LINGER_BYTES:
            self.abort()
        return None

    def eof_received(self) -> bool | None:
        return None if self._closing else self._inner.eof_received()

    def pause_writing(self) -> None:
        if not self._closing:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
        if self._closing:
            self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._closing = True
        self._pool.remove(self)
        self._tell_lost(exc)

    def _linger(self) -> None:
        """All is sent: leave the client a moment to hang up."""
        self._stop_timer()
        self._timer = self._loop.call_later(LINGER_SECONDS, self.abort)
        self._loop.call_soon(self._tell_lost, None)

    def _tell_lost(self, exc: Exception | None) -> None:
        if self._admitted:
            self._admitted = False
            self._inner.connection_lost(exc)

    def _await_header(self) -> None:
        if not self._requests and not self._closing:
            self._stop_timer()
            self._timer = self._loop.call_later(self._pool.limits.header_timeout, self._give_up)

    def _give_up(self) -> None:
        if self._heard:
            self.write(_TOO_SLOW)
        self.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request has come by, if it is one of ours."""
    return scope.get("state", {}).get(_STATE)


def config_of(app: ASGIApp, limits: ConnectionLimits, *, stop_timeout: int) -> uvicorn.Config:
    """How uvicorn is to serve ``app``: within these limits, and, told to stop, for ``stop_timeout`` seconds more."""
    pool = Pool(limits)

    class Pooled(Connection):
        def __init__(self, **given: Any) -> None:
            super().__init__(pool, **given)

    return uvicorn.Config(
        app,
        http=Pooled,
        ws="none",
        loop="asyncio",  # also where something else has brought uvloop
        log_level="warning",
        timeout_graceful_shutdown=stop_timeout,
        server_header=False,
    )


def _answer(error: HTTPException) -> bytes:
    status, failure, _ = failure_of(error)
    body = failure.model_dump_json().encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_TOO_SLOW = _answer(HTTPException(408, "the header of the request did not arrive in time"))
