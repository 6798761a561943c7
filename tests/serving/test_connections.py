"""Raw sockets against a real server: connections without requests, slow headers, bodies that nobody wants to read."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from servers import TOKEN, client, connect, head, running, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.foundation.errors import InputError
from vqdiff.serving.addresses import network_of
from vqdiff.serving.connections import LINGER_BYTES, RESERVE, ConnectionLimits, config_of
from vqdiff.serving.limits import Limits

LARGE = 200_000
"""Bytes of a body: more than asyncio reads at once, less than what is drained."""
SYSTEM = 32 * 2**20
"""More than two systems keep of a stream between a sender and a reader who does not read."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    limits = Limits(max_body=4 * LARGE, timeout=60.0)
    with serving(toy_pipeline(), limits=limits, token=TOKEN) as (address, _):
        yield address


def chunk(size: int) -> bytes:
    """A part of a chunked body, or of any other."""
    return b"%x\r\n" % size + bytes(size) + b"\r\n"


def some(sock: socket.socket) -> bytes:
    piece = sock.recv(65536)
    assert piece, "the server has hung up"
    return piece


def read_one(sock: socket.socket) -> bytes:
    """One answer, which has a Content-Length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += some(sock)
    top, _, body = answer.partition(b"\r\n\r\n")
    length = int(top.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += some(sock)
    return top + b"\r\n\r\n" + body


def read_all(sock: socket.socket) -> bytes:
    """All until the server hangs up; a reset is an error."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def ask(address: str, path: str, source: str = "127.0.0.1") -> int:
    """The status of an answer to a connection of its own; 0 if it was closed without one."""
    with connect(address, source) as sock:
        try:
            sock.sendall(head(path, "Connection: close", method="GET"))
            answer = read_all(sock)
        except ConnectionError:
            return 0
    return int(answer[9:12] or 0)


# --- answers before the request has been read to its end --------------------------------------------------------------

EARLY = {
    "wrong token": (401, head("/api/draw", f"Content-Length: {LARGE}", token="wrong")),
    "another site": (403, head("/api/draw", f"Content-Length: {LARGE}", "Sec-Fetch-Site: cross-site")),
    "too large": (413, head("/api/draw", f"Content-Length: {4 * LARGE + 1}")),
    "no such path": (404, head("/nowhere", f"Content-Length: {LARGE}")),
    "no such method": (405, head("/readyz", f"Content-Length: {LARGE}")),
    "chunks": (404, head("/nowhere", "Transfer-Encoding: chunked")),
    "health": (200, head("/healthz", f"Content-Length: {LARGE}", method="GET")),
    "no HTTP": (400, b"nonsense\r\n\r\n"),
}


@pytest.mark.parametrize("case", EARLY)
def test_any_client_can_read_an_answer_that_comes_before_its_body_is_sent(server: str, case: str) -> None:
    status, header = EARLY[case]
    for _ in range(50):
        with connect(server) as sock:
            sock.sendall(header)
            for _ in range(4):  # the server has answered and closed before the last of it
                sock.sendall(chunk(LARGE // 4))
            answer = read_all(sock)
        top, _, body = answer.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"connection: close" in top.lower()
        assert len(body) == int(top.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or len(body))


def test_a_body_that_was_read_leaves_the_connection_open(server: str) -> None:
    with connect(server) as sock:
        for body in (b"{}", b'{"n": 0}'):
            sock.sendall(head("/api/draw", "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
            answer = read_one(sock)
            assert answer.startswith(b"HTTP/1.1 4"), answer
            assert b"connection: close" not in answer.lower()


def push(sock: socket.socket, piece: bytes) -> int:
    """Send for as long as the server takes it: how many bytes that were."""
    sent = 0
    try:
        while sent < 2 * SYSTEM:
            sock.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize("refused", ["at once", "in the middle", "by a small limit"])
def test_who_sends_on_after_an_answer_is_read_no_further_than_a_small_limit(refused: str) -> None:
    read = list[int]()
    header = head("/nowhere" if refused == "at once" else "/api/draw", "Transfer-Encoding: chunked")
    limits = Limits(max_body=100_000 if refused == "in the middle" else 10)
    pipe, noted = toy_pipeline(), lambda data: read.append(len(data))
    with serving(pipe, limits=limits, token=TOKEN, received=noted) as (address, _), connect(address) as sock:
        sock.sendall(header)
        assert push(sock, chunk(65536)) < 2 * SYSTEM
    assert sum(read) >= len(header)
    assert sum(read) < limits.max_body + LINGER_BYTES + 2**20  # pieces that come while it answers, and the last one


def test_a_body_that_does_not_come_is_answered_408_and_that_is_the_end() -> None:
    with serving(toy_pipeline(), limits=Limits(timeout=0.3)) as (address, _), connect(address) as sock:
        sock.sendall(head("/api/draw", "Content-Length: 100") + b"{")
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()


# --- connections without requests -------------------------------------------------------------------------------------


def hoard(stack: ExitStack, address: str, count: int, source: str = "127.0.0.1") -> list[socket.socket]:
    return [stack.enter_context(connect(address, source)) for _ in range(count)]


def test_headers_that_do_not_come_to_an_end_are_hung_up_on() -> None:
    limits = ConnectionLimits(header_timeout=3.0)  # in which an answer has to be read, and a letter sent
    with serving(toy_pipeline(), connections=limits) as (address, _), ExitStack() as stack:
        silent, second = hoard(stack, address, 2)
        second.sendall(head("/healthz", method="GET"))
        slow = stack.enter_context(connect(address))
        assert read_one(second).startswith(b"HTTP/1.1 200")
        stop = threading.Event()

        def drip() -> None:
            for letter in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 600:
                if stop.wait(0.1):
                    return
                for sock in (slow, second):
                    with contextlib.suppress(OSError):
                        sock.send(bytes([letter]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert read_all(silent) == b""
            for sock in (slow, second):
                answer = read_one(sock)
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
                assert b"Connection: close" in answer
        finally:
            stop.set()
            thread.join()


def test_connections_without_a_request_give_way_to_those_with_one() -> None:
    limits = ConnectionLimits(total=20, per_address=20, header_timeout=600.0)
    with serving(toy_pipeline(), connections=limits) as (address, _), ExitStack() as stack:
        served = stack.enter_context(client(address))
        assert served.get("/healthz").status_code == 200
        idle = hoard(stack, address, 20 + RESERVE)
        wait_for(lambda: ask(address, "/healthz") == 200)  # as soon as those beyond the limit have been there a moment
        wait_for(lambda: ask(address, "/v1/models") == 200)  # and then for all
        assert [ask(address, "/v1/models") for _ in range(5)] == [200] * 5
        assert read_all(idle[-1]) == b""


def test_health_checks_are_answered_where_all_else_is_refused() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe)
    limits = ConnectionLimits(total=4, per_address=4)
    with serving(pipe, connections=limits, max_rows=1) as (address, engine), ExitStack() as stack:
        body = b'{"prompt": "1"}'
        busy = hoard(stack, address, 4)
        for sock in busy:
            sock.sendall(head("/api/draw", "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        wait_for(lambda: engine.waiting == 3)
        assert [ask(address, path) for path in ("/healthz", "/readyz", "/v1/models")] == [200, 200, 503]
        with client(address) as http:
            refused = http.get("/v1/models")
        assert "too many connections" in refused.json()["error"]["message"]
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
        gate.open()
        for sock in busy:
            assert sock.recv(12) == b"HTTP/1.1 200"


def test_an_address_has_its_share_of_the_connections() -> None:
    limits = ConnectionLimits(total=40, per_address=8, header_timeout=600.0)
    with serving(toy_pipeline(), connections=limits) as (address, _), ExitStack() as stack:
        hoard(stack, address, 60)
        assert ask(address, "/v1/models", source="127.0.0.2") == 200
        assert ask(address, "/v1/models") in (0, 503)


def test_whom_a_connection_counts_for() -> None:
    assert network_of(("192.0.2.7", 5)) == network_of(("::ffff:192.0.2.7", 5, 0, 0)) == "192.0.2.7"
    assert network_of(("2001:db8::1", 5, 0, 0)) == network_of(("2001:db8::ffff:1", 5, 0, 0)) == "2001:db8::/64"
    assert network_of(("fe80::1%eth0", 5, 0, 3)) == "fe80::/64"
    assert network_of("") == network_of(None) == ""
    with pytest.raises(InputError, match="--max-connections-per-address is 0: it must be above 0"):
        ConnectionLimits(per_address=0)


async def much(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers at length, and then hangs up."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": bytes(SYSTEM)})


def test_who_does_not_take_the_end_of_an_answer_is_hung_up_on() -> None:
    config = config_of(much, ConnectionLimits(flush_timeout=0.5), stop_timeout=5)
    with running(config) as (address, server), connect(address) as sock:
        sock.sendall(head("/", method="GET"))
        assert sock.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: not server.server_state.connections)
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(sock)) < SYSTEM


def test_who_has_taken_all_of_an_answer_and_does_not_hang_up_is_hung_up_on() -> None:
    config = config_of(much, ConnectionLimits(flush_timeout=600.0), stop_timeout=5, linger_timeout=0.1)
    with running(config) as (address, _), connect(address) as sock:
        sock.sendall(head("/", "Content-Length: 1000000"))
        assert len(read_all(sock)) > SYSTEM

        def refused() -> bool:
            try:
                sock.send(b"x")
            except ConnectionError:
                return True
            return False

        wait_for(refused)
