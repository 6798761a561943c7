"""Jobs of the page that nobody listens to."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx2 as httpx
import pytest

from serving.servers import client, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.serving.gate import Reader

DATA = "/gradio_api/queue/data"


def job(http: httpx.Client) -> dict[str, Any]:
    """What the page sends for ten pictures."""
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", http.get("/").text)[1])  # type: ignore[index]
    fields = {one["id"]: one["props"] for one in config["components"]}
    run = next(one for one in config["dependencies"] if len(one["outputs"]) == 2 and len(one["inputs"]) > 8)
    values = {fields[one].get("label"): fields[one].get("value") for one in run["inputs"]}
    return {"data": list((values | {"Pictures": 10, "Steps": 8}).values()), "fn_index": run["id"]}


def join(http: httpx.Client, asked: dict[str, Any], session: str) -> None:
    assert http.post("/gradio_api/queue/join", json=asked | {"session_hash": session}).status_code == 200


def test_joined_and_abandoned_jobs_are_not_drawn_and_those_with_a_reader_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqdiff.serving.gate._PATIENCE", 120.0)  # the machine may be slow
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with serving(pipe, page=True) as (address, engine), client(address) as http, client(address) as other:
        asked = job(http)
        for number in range(30):
            join(http, asked, f"gone{number}")
        join(http, asked, "stays")
        with other.stream("GET", DATA, params={"session_hash": "stays"}) as reader:
            gate.await_call()
            assert (engine.running, engine.waiting) == (8, 1)  # ten pictures of one job
            gate.open()
            lines = (json.loads(line[6:]) for line in reader.iter_lines() if line.startswith("data: "))
            assert next(one for one in lines if one["msg"] == "process_completed")["success"]
        wait_for(lambda: engine.counts.pictures == 10)
        assert engine.counts.cancelled == 0


def test_a_reader_that_goes_ends_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqdiff.serving.gate._PATIENCE", 120.0)  # the machine may be slow
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with serving(pipe, page=True) as (address, engine), client(address) as http, client(address) as other:
        join(http, job(http), "goes")
        with other.stream("GET", DATA, params={"session_hash": "goes"}) as reader:
            lines = reader.iter_lines()
            next(lines)  # an iterator that is dropped closes the connection: this one is kept
            gate.await_call()
        wait_for(lambda: engine.counts.cancelled == 1)
        gate.open()


def test_a_reader_that_does_not_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        reader = Reader()
        monkeypatch.setattr("vqdiff.serving.gate._PATIENCE", 0.01)
        assert not await reader.comes()
        with reader, reader:
            assert await reader.comes()
        assert not reader.here

    asyncio.run(check())
