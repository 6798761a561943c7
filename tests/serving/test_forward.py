"""What becomes of a request whose replica dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from vqdiff.serving.forward import Forward, answered_by


class LostError(Exception):
    pass


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
EVENT = {"type": "http.response.body", "body": b"event: progress\n\n", "more_body": True}
LAST = {"type": "http.response.body", "body": b"event: done\n\n", "more_body": False}
PLAIN = START | {"headers": [(b"content-type", b"application/json")]}


class Replicas:
    """A handle whose replicas answer one after the other; a LostError among the messages is a death."""

    def __init__(self, *answers: list[Any]) -> None:
        self.answers, self.asked, self.cancelled = list(answers), 0, 0

    def options(self, **options: Any) -> Replicas:
        assert options == {"method_name": "answer", "stream": True}
        return self

    def remote(self, scope: dict[str, Any], body: bytes) -> Replicas:
        self.asked += 1
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        for message in self.answers.pop(0):
            if isinstance(message, Exception):
                raise message
            yield message

    def cancel(self) -> None:
        self.cancelled += 1


def sender(body: bytes) -> Callable[[], Awaitable[Any]]:
    """A client that sends its body and then stays."""
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop()

    return receive


def ask(replicas: Replicas, body: bytes, method: str = "POST") -> tuple[int, bytes]:
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Forward(replicas, (LostError,))({"type": "http", "method": method, "headers": []}, sender(body), send))
    assert [one["type"] for one in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body", False)
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)


SEEDED = [
    b'{"seed": 0}',
    b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n7\r\n--x--\r\n',
]


@pytest.mark.parametrize("body", SEEDED)
def test_seeded_draws_are_requested_once_more(body: bytes) -> None:
    replicas = Replicas([LostError()], [PLAIN, LAST])
    assert ask(replicas, body) == (200, b"event: done\n\n")
    assert (replicas.asked, replicas.cancelled) == (2, 2)
    replicas = Replicas([START, EVENT, LostError()], [START, EVENT, LAST])
    assert ask(replicas, body) == (200, b"event: progress\n\n" * 2 + b"event: done\n\n")


def test_other_draws_and_a_second_death_are_reported() -> None:
    for body, answers in ((b"{}", [[LostError()]]), (b'{"seed": 0}', [[LostError()], [LostError()]])):
        status, told = ask(Replicas(*answers), body)
        assert status == 503
        assert "has died" in json.loads(told)["error"]["message"]
    status, told = ask(Replicas([START, EVENT, LostError()]), b'{"seed": null}')
    name, _, data = told.removeprefix(EVENT["body"]).partition(b"\ndata: ")
    assert (status, name) == (200, b"event: error")
    assert json.loads(data)["error"]["type"] == "server_error"


def test_who_does_not_take_the_answer_is_sent_no_more() -> None:
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 2:
            raise TimeoutError

    scope = {"type": "http", "method": "POST", "headers": []}
    with pytest.raises(TimeoutError):
        asyncio.run(Forward(Replicas([START, EVENT, LAST]), (LostError,))(scope, sender(b"{}"), send))
    assert sent == [START, EVENT]


def test_what_draws_nothing_is_requested_once_more() -> None:
    assert ask(Replicas([LostError()], [PLAIN, LAST]), b"", method="GET")[0] == 200


def test_other_failures_are_reported_and_not_repeated() -> None:
    replicas = Replicas([RuntimeError("bug")])
    status, told = ask(replicas, b'{"seed": 0}')
    assert (status, replicas.asked) == (500, 1)
    assert "bug" not in told.decode()


def test_who_hangs_up_is_noticed_by_the_replica() -> None:
    async def check() -> None:
        gone = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["body"] == b"x"
            await send(START)
            assert (await receive())["type"] == "http.disconnect"
            gone.set()

        messages = answered_by(app, {}, b"x")
        assert await anext(messages) == START
        await messages.aclose()
        await asyncio.wait_for(gone.wait(), 30)

    asyncio.run(check())
