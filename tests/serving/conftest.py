"""A server of toy pipelines for each module, and two clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import openai
import pytest

from servers import client, openai_client, serving
from toy_pipelines import toy_pipeline
from vqdiff.pipeline import Pipeline


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Pipeline]]:
    """Its address, and the first of its pipelines; within the limits called LIMITS in the module."""
    pipe = toy_pipeline()
    with serving(pipe, toy_pipeline("unconditional"), limits=request.module.LIMITS) as (address, _):
        yield address, pipe


@pytest.fixture
def http(server: tuple[str, Pipeline]) -> Iterator[httpx.Client]:
    with client(server[0]) as http:
        yield http


@pytest.fixture(scope="module")
def ai(server: tuple[str, Pipeline]) -> openai.OpenAI:
    return openai_client(server[0])
