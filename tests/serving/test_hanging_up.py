"""Whoever hangs up is noticed within two seconds, by whichever way it came, and costs nothing from the next step on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from servers import client, page_job, post, serving, soon, wait_for
from toy_pipelines import Gate, toy_pipeline


def png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (32, 32), "white").save(file, format="PNG")
    return file.getvalue()


PROMPT = {"prompt": "1", "n": 2}
EDIT: dict[str, Any] = {"files": {"image": ("a.png", png("RGB")), "mask": ("b.png", png("L"))}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "generations": ("/v1/images/generations", {"json": PROMPT}),
    "a stream of generations": ("/v1/images/generations", {"json": PROMPT | {"stream": True, "partial_images": 3}}),
    "edits": ("/v1/images/edits", EDIT | {"data": PROMPT}),
    "a stream of edits": ("/v1/images/edits", EDIT | {"data": PROMPT | {"stream": "true"}}),
    "draw": ("/api/draw", {"json": PROMPT}),
    "a stream of draw": ("/api/draw", {"json": PROMPT | {"stream": True}}),
}


@contextmanager
def waiting(address: str, http: httpx.Client, way: str) -> Iterator[None]:
    """A client that waits for its pictures, and hangs up at the end of the block."""
    if way == "the page":
        job = page_job(http) | {"session_hash": "a"}
        assert http.post("/gradio_api/queue/join", json=job).status_code == 200
        with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "a"}):
            yield
    else:
        path, content = WAYS[way]
        with post(address, path, **content):
            yield


@pytest.mark.parametrize("way", [*WAYS, "the page"])
def test_who_hangs_up_costs_nothing_from_the_next_step_on(way: str) -> None:
    pipe = toy_pipeline(steps=8)
    gate = Gate(pipe)
    with serving(pipe, page=way == "the page") as (address, engine), client(address) as http:
        with waiting(address, http, way):
            gate.await_call()
        assert soon(lambda: engine.counts.cancelled == 1, http)
        gate.open()
        wait_for(lambda: engine.running == 0)
        assert len(gate.sizes) == 1  # the call that was under way
