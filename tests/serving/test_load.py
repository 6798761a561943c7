"""Many clients, slow ones, ones that go away, and a server that is stopped."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from PIL import Image

from servers import client, post, process, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.serving.guards import Guards
from vqdiff.serving.limits import Limits


async def ask_all(
    address: str, bodies: list[dict[str, object]], note: Callable[[httpx.Response], object] = lambda _: None
) -> list[httpx.Response]:
    """The answers to as many clients at once, each with a connection of its own; each is noted as it comes."""
    everyone = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=everyone) as http:

        async def ask(body: dict[str, object]) -> httpx.Response:
            answer = await http.post("/api/draw", json=body)
            note(answer)
            return answer

        return await asyncio.gather(*map(ask, bodies))


def pixels(answer: httpx.Response) -> bytes:
    png = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def test_two_hundred_clients_at_once() -> None:
    pipe = toy_pipeline(steps=2)
    bodies: list[dict[str, object]] = [{"prompt": "1", "seed": seed} for seed in range(200)]
    with serving(pipe, max_rows=8, max_waiting=200) as (address, _):
        answers = asyncio.run(ask_all(address, bodies))
    assert {one.status_code for one in answers} == {200}
    for seed in (0, 77, 199):
        assert pixels(answers[seed]) == pipe(1, seed=seed)[0].tobytes()


def test_more_clients_than_may_wait() -> None:
    pipe = toy_pipeline(steps=2)
    gate, refused = Gate(pipe), list[httpx.Response]()

    def note(answer: httpx.Response) -> None:
        if answer.status_code == 429:
            refused.append(answer)
        if len(refused) == 15:  # all but two in rows and three that wait
            gate.open()

    with serving(pipe, max_rows=2, max_waiting=3) as (address, _):
        answers = asyncio.run(ask_all(address, [{"prompt": "1", "seed": seed} for seed in range(20)], note))
        assert len(refused) in (15, 16)  # two in rows, or one if it was there long before the others
        assert {one.status_code for one in answers} == {200, 429}
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        assert "the queue is full" in refused[0].json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_costs_nothing_from_the_next_step_on(stream: bool) -> None:
    pipe = toy_pipeline(steps=8)
    gate = Gate(pipe)
    with serving(pipe, max_rows=2) as (address, engine):
        body: dict[str, object] = {"prompt": "1", "n": 2, "guidance": 1.0, "stream": stream}
        running = post(address, json=body)
        gate.await_call()
        waiting = post(address, json=body)
        wait_for(lambda: engine.waiting == 1)
        stays = post(address, json=body | {"n": 1, "stream": False})
        wait_for(lambda: engine.waiting == 2)
        for sock in (running, waiting):
            sock.close()
        wait_for(lambda: engine.counts.cancelled == 2)
        gate.let(1)
        assert gate.sizes == [2]  # the call that was under way
        assert engine.running == 1
        gate.open()
        assert stays.recv(12) == b"HTTP/1.1 200"
        stays.close()


def test_slow_readers_and_slow_writers_keep_nobody_waiting() -> None:
    with serving(toy_pipeline()) as (address, engine), client(address) as http:
        readers = [post(address, json={"prompt": "1", "n": 2, "steps": 8, "stream": True}) for _ in range(5)]
        writers = [post(address, json={"prompt": "1"}, keep=5) for _ in range(5)]
        assert http.post("/api/draw", json={"prompt": "1"}).status_code == 200
        wait_for(lambda: engine.running == 0)
        for sock in writers:  # they have been there all the time
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
        for sock in (*readers, *writers):
            sock.close()


def test_who_takes_no_answer_is_hung_up_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def never(*message: Any) -> None:
        await asyncio.Event().wait()

    guards = Guards(app, limits=Limits(timeout=0.05), token=None)
    with pytest.raises(TimeoutError):
        asyncio.run(guards({"type": "http", "method": "GET", "path": "/", "headers": []}, never, never))


def test_when_stopped_it_finishes_what_it_has_taken(tmp_path: Path) -> None:
    with process(tmp_path, "--device", "cpu") as (address, server):
        socks = [post(address, json={"prompt": "1", "n": 2, "seed": seed}) for seed in range(30)]
        with client(address) as http:
            wait_for(lambda: "vqdiff_running_images 8.0" in http.get("/metrics").text)
        server.send_signal(signal.SIGTERM)
        answers = [b"".join(iter(lambda one=one: one.recv(65536), b"")) for one in socks]
        assert server.wait(60) == 0
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(json.loads(body)["data"]) == 2
    with pytest.raises(ConnectionRefusedError):
        post(address, json={})


def test_the_options_of_the_command_are_its_limits(tmp_path: Path) -> None:
    image = in_base64(Image.new("RGB", (200, 10)))
    options = {
        "max-body": 5000, "max-prompt": 20, "max-images": 2, "max-steps": 64, "max-image-bytes": 1000,
        "max-image-pixels": 128**2, "max-waiting": 1, "max-rows": 1, "max-connections": 6,
        "max-connections-per-address": 6, "max-best-of": 3,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with process(tmp_path, "--device", "cpu", *words) as (address, server), client(address) as http:
        for body, status, says in (
            ({"prompt": "x" * 5000}, 413, "larger than 5000 bytes"),
            ({"prompt": "x" * 21}, 400, "the limit is 20"),
            ({"prompt": "1", "n": 3}, 400, "1 to 2 images"),
            ({"prompt": "1", "steps": 65}, 400, "1 to 64"),
            ({"prompt": "1", "best_of": 4}, 400, "1 to 3"),
            ({"image": base64.b64encode(bytes(1001)).decode()}, 413, "1001 bytes, the limit is 1000"),
            ({"image": image}, 413, "its longest side may have 128"),
        ):
            answer = http.post("/api/draw", json=body)
            assert (answer.status_code, says in answer.text) == (status, True), answer.text
        listening = [link for link in psutil.Process(server.pid).net_connections("inet") if link.status == "LISTEN"]
        assert [link.laddr.ip for link in listening] == ["127.0.0.1"]
        assert "vqdiff_max_rows 1.0" in http.get("/metrics").text
        body: dict[str, object] = {"prompt": "1", "n": 2, "steps": 64}
        few, many = (asyncio.run(ask_all(address, [body] * count)) for count in (4, 12))
        assert {one.status_code for one in few} == {200, 429}  # one is drawn, and one may wait
        assert 503 in {one.status_code for one in many}  # twelve connections, and that of the other client


def in_base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


KINDS: list[tuple[int, dict[str, object]]] = [
    (200, {"prompt": "1", "n": 4}),
    (200, {"prompt": "2", "stream": True}),
    (200, {"prompt": "3", "sampler": "strided"}),
    (400, {"prompt": ""}),
    (200, {"prompt": "1", "image": in_base64(Image.effect_noise((300, 200), 50).convert("RGB")), "strength": 0.4}),
    (200, {"image": in_base64(Image.effect_noise((30, 20), 50).convert("RGB")), "share": 0.2}),
    (400, {"prompt": "1", "steps": 999}),
]


CLIENTS = 50


class Load:
    """All kinds of requests by many clients, some of whom hang up, beside others who send nothing but slow headers."""

    def __init__(self, address: str, server: psutil.Process, seconds: float) -> None:
        self.address, self.server, self.seconds, self.end = address, server, seconds, float("inf")
        self.answers, self.health, self.sizes = Counter[int](), Counter[int](), list[int]()
        self.turns, self.slowest = Counter[int](), 0.0
        """answers, health: by status, 0 if disconnected without one. turns: answers of each client. slowest: seconds to
        an answer about the server's health."""

    @property
    def going(self) -> bool:
        return time.monotonic() < self.end

    async def run(self) -> None:
        slow = [self.drip(f"127.0.0.{2 + number % 2}", number % 20 / 10) for number in range(520)]
        await asyncio.gather(self.watch(), self.probe(), *map(self.draw, range(CLIENTS)), *slow)

    async def draw(self, number: int) -> None:
        turn = number
        # Without verify=False a client reads all certificates, and 50 at once keep each other from sending for seconds:
        # too late where connections without a request make room for new ones.
        async with httpx.AsyncClient(base_url=self.address, timeout=120, verify=False) as http:
            while self.going:
                turn += 1
                wanted, body = KINDS[turn % len(KINDS)]
                try:
                    answer = await http.post("/api/draw", json=body, timeout=0.2 if turn % 11 == 0 else 600)
                except httpx.TimeoutException:
                    continue
                except httpx.NetworkError:  # disconnected, as there was no room
                    self.answers[0] += 1
                    await asyncio.sleep(0.5)
                    continue
                assert answer.status_code in (wanted, 503), answer.text
                self.answers[answer.status_code] += 1
                self.turns[number] += answer.status_code != 503

    async def drip(self, source: str, wait: float) -> None:
        host, _, port = self.address.removeprefix("http://").partition(":")
        await asyncio.sleep(wait)
        while self.going:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
                with contextlib.closing(writer):
                    for letter in b"GET / HTTP/1.1\r\n" + b"x" * 1000:
                        writer.write(bytes([letter]))
                        await asyncio.sleep(2)  # the pace of a slow client, which is part of the load
                        if not self.going or reader.at_eof() or writer.is_closing():
                            break
            await asyncio.sleep(0.5)

    async def probe(self) -> None:
        while self.going:
            await asyncio.sleep(0.5)
            async with httpx.AsyncClient(base_url=self.address, timeout=120, verify=False) as http:
                start = time.monotonic()
                try:
                    self.health[(await http.get("/healthz")).status_code] += 1
                except httpx.TransportError:
                    self.health[0] += 1
                self.slowest = max(self.slowest, time.monotonic() - start)

    async def watch(self) -> None:
        """Measure, and note the server's memory, from when every client has had two answers."""
        while len(self.turns) < CLIENTS or min(self.turns.values()) < 2:
            await asyncio.sleep(0.5)
        self.answers.clear()  # among them are those from when all came at once
        self.end = time.monotonic() + self.seconds
        while self.going:
            self.sizes.append(self.server.memory_info().rss)
            await asyncio.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_stays_flat_under_mixed_load(tmp_path: Path) -> None:
    """Ten minutes, or VQDIFF_LOAD_SECONDS, of 50 clients and 520 slow sockets: all goes on, and memory is flat.

    All is measured from when every client has had two answers. From the first half to the second memory grows by less
    than 5 %.
    """
    seconds = float(os.environ.get("VQDIFF_LOAD_SECONDS", "600"))
    with process(tmp_path, "--device", "cpu", "--timeout", "600") as (address, server):
        load = Load(address, psutil.Process(server.pid), seconds)
        asyncio.run(load.run())
        with client(address) as http:
            wait_for(lambda: "vqdiff_running_images 0.0" in http.get("/metrics").text)
    sizes, answers = load.sizes, load.answers
    first, second = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    told = [f"{size / 2**20:.0f} MiB" for size in sizes[:: max(1, len(sizes) // 10)]]
    print(f"answers: {dict(answers)}; health: {dict(load.health)}, {load.slowest:.1f} s; memory: {', '.join(told)}")
    assert set(load.health) == {200}
    assert load.slowest < 10
    assert answers[0] + answers[503] < 0.02 * answers.total()
    assert max(second) < 1.05 * max(first)
