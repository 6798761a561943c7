"""TCP connections: limits on their number and on the time for a header, and orderly closing.

Uvicorn waits for a header forever, reads what follows a response without limit, and closes with bytes unread, upon
which the client may see a reset instead of its response. A `Connection` sits between uvicorn's protocol and its
transport and handles all of that. It relies only on the interface of `asyncio.Protocol`, on the arguments of the
constructor of uvicorn's protocol, and on ``app_state`` being the ``state`` of a scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from fastapi import HTTPException
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vqdiff.foundation.errors import InputError
from vqdiff.serving.addresses import network_of
from vqdiff.serving.errors import failure_of

RESERVE = 16
"""Connections beyond the limit, on which health checks are answered and all else is rejected."""
GRACE = 2.0
"""Seconds without a request after which a connection may be closed to make room for a new one."""
HASTE = 0.2
"""The same for connections beyond the limit."""
LINGER_BYTES = 2**20
"""Bytes that are read and discarded after a response whose request has not been read to its end."""
LINGER_SECONDS = 5.0
"""Seconds that reading them may take, by default."""
_STATE = "vqdiff.connection"


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the number of connections, and on their time without a request."""

    total: int = 512
    per_address: int = 256
    """Connections of one IPv4 address, or of one IPv6 network of 64 bits."""
    header_timeout: float = 10.0
    """Seconds from connecting, or from the last response, to a complete header."""
    flush_timeout: float = 120.0
    """Seconds for a client to receive the end of a response."""

    def __post_init__(self) -> None:
        options = ("max-connections", "max-connections-per-address", "header-timeout", "timeout")
        for option, value in zip(options, vars(self).values(), strict=True):
            if not value > 0:
                raise InputError(f"--{option} is {value}: it must be above 0")


class Pool:
    """The open connections of a server."""

    def __init__(self, limits: ConnectionLimits, linger_timeout: float = LINGER_SECONDS) -> None:
        self.limits, self.linger_timeout = limits, linger_timeout
        self._open = set[Connection]()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool | None:
        """Admit a connection: True, False for health checks only, None if there is no room.

        If there is no room, a connection that has had no request for a while is closed to make room.
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
        """Remove a connection."""
        self._open.discard(connection)


class Connection(asyncio.Protocol):
    """A connection: the protocol of the actual transport, and the transport of uvicorn's protocol."""

    def __init__(
        self,
        pool: Pool,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.address, self.crowded = "", False
        """crowded: beyond the limit."""
        self._pool, self._loop = pool, _loop or asyncio.get_running_loop()
        self._inner = H11Protocol(config, server_state, app_state | {_STATE: self}, self._loop)
        self._requests, self._served, self._idle_since = 0, False, self._loop.time()
        self._unread = False
        """Whether data may still arrive that is not part of the next request."""
        self._heard = False
        """Whether a part of a header may have arrived."""
        self._admitted = self._closing = False
        """admitted: uvicorn's protocol has been notified of the connection, and not yet of its end."""
        self._drained = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expendable(self) -> bool:
        """Whether it has had no request for a while, or is about to be closed."""
        idle = self._loop.time() - self._idle_since
        return self._closing or (not self._requests and idle > (HASTE if self.crowded else GRACE))

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """The order in which connections are closed to make room: first those that never had a request."""
        return not self._closing, self._served, self._idle_since

    @contextmanager
    def request(self) -> Iterator[None]:
        """A context for answering a request whose header is complete."""
        self._requests, self._heard, self._unread = self._requests + 1, False, True
        self._stop_timer()
        try:
            yield
        finally:
            self._requests -= 1
            self._served, self._idle_since = True, self._loop.time()
            self._await_header()

    def note_complete(self) -> None:
        """Note that the request has been read to its end."""
        self._unread = False

    # The transport of uvicorn's protocol: the methods that it uses.

    def close(self) -> None:
        """Close once everything is sent and the client has disconnected, or has had time to."""
        if self._closing:
            return
        self._stop_timer()
        self._closing = True
        if (self._unread or self._heard) and self._transport.can_write_eof():
            # With bytes unread the system would send a reset, which can overtake the answer.
            with suppress(OSError):  # the client may have disconnected
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._pool.limits.flush_timeout, self.abort)
            self._transport.set_write_buffer_limits(0)  # resume_writing is called when everything is sent
        else:
            self._linger()

    def abort(self) -> None:
        """Disconnect immediately."""
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

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self._transport.get_extra_info(name, default)

    # The protocol of the actual transport.

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
        self._report_lost(exc)

    def _linger(self) -> None:
        """After everything is sent, give the client time to disconnect."""
        self._stop_timer()
        self._timer = self._loop.call_later(self._pool.linger_timeout, self.abort)
        self._loop.call_soon(self._report_lost, None)

    def _report_lost(self, exc: Exception | None) -> None:
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
    """Return the `Connection` of a request, if it has one."""
    return scope.get("state", {}).get(_STATE)


def config_of(
    app: ASGIApp, limits: ConnectionLimits, *, stop_timeout: int, linger_timeout: float = LINGER_SECONDS
) -> uvicorn.Config:
    """Return the uvicorn configuration for ``app`` with these limits; on a signal, requests have ``stop_timeout`` s.

    linger_timeout: the seconds that a client has to disconnect after the last response.
    """
    pool = Pool(limits, linger_timeout)

    class Pooled(Connection):
        def __init__(self, **given: Any) -> None:
            super().__init__(pool, **given)

    return uvicorn.Config(
        app,
        http=Pooled,
        ws="none",
        loop="asyncio",  # even if uvloop is installed
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
