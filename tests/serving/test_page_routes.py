"""Jobs of the page that nobody listens to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as httpx

from servers import client, page_job, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.serving.page_routes import Reader

DATA = "/gradio_api/queue/data"


def join(http: httpx.Client, job: dict[str, Any], session: str) -> None:
    assert http.post("/gradio_api/queue/join", json=job | {"session_hash": session}).status_code == 200


def test_joined_and_abandoned_jobs_are_not_drawn_and_those_with_a_reader_are() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with serving(pipe, page=True) as (address, engine), client(address) as http, client(address) as other:
        job = page_job(http, Images=10, Steps=8)
        for number in range(30):
            join(http, job, f"gone{number}")
        join(http, job, "stays")
        with other.stream("GET", DATA, params={"session_hash": "stays"}) as reader:
            gate.await_call()
            assert (engine.running, engine.waiting) == (8, 1)  # ten pictures of one job
            gate.open()
            lines = (json.loads(line[6:]) for line in reader.iter_lines() if line.startswith("data: "))
            assert next(one for one in lines if one["msg"] == "process_completed")["success"]
        wait_for(lambda: engine.counts.images == 10)
        assert engine.counts.cancelled == 0


def test_a_reader_that_does_not_come_in_time() -> None:
    async def check() -> None:
        reader = Reader(timeout=0.01)
        assert not await reader.comes()
        with reader, reader:
            assert await reader.comes()
        assert not reader.here

    asyncio.run(check())
