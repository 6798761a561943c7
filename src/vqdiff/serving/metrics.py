"""Prometheus metrics of a server."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.engine import Engine


class EngineMetrics(Collector):
    """Metrics of the engine's current and past work."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("vqdiff_waiting_requests", "Requests in the queue", self.engine.waiting)
        yield GaugeMetricFamily("vqdiff_running_images", "Images in progress", self.engine.running)
        yield GaugeMetricFamily("vqdiff_max_rows", "The most images in progress at once", self.engine.max_rows)
        for name, value in vars(self.engine.counts).items():
            yield CounterMetricFamily(f"vqdiff_{name}", f"{name.replace('_', ' ').capitalize()} so far", value)


_GONE = 499
"""The status of a response that was not received to its end, even if another status was sent."""


class RequestMetrics:
    """ASGI middleware that counts and times requests, by endpoint and status."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("endpoint", "status")
        self.requests = Counter("vqdiff_requests", "HTTP requests", labels, registry=registry)
        self.seconds = Histogram(
            "vqdiff_request_seconds", "From request to last byte", labels[:1], registry=registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, begun, complete, gone = time.perf_counter(), 500, False, False, False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not complete)
            return message

        async def noted(message: Message) -> None:
            nonlocal status, begun, complete
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
            # Set before sending: a client that disconnects after this has received everything.
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            return await self.app(scope, heard, noted)
        finally:
            if gone or (begun and not complete):
                status = _GONE
            endpoint = getattr(scope.get("route"), "path", "other")  # not the requested path, which may be anything
            self.requests.labels(endpoint, str(status)).inc()
            self.seconds.labels(endpoint).observe(time.perf_counter() - start)
