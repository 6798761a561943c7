"""The server as several replicas, with Ray Serve: on the processors or GPUs of one machine or several."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.model.finding import bundled, find
from vqdiff.pipeline import load
from vqdiff.serving.api import create_app, quieten
from vqdiff.serving.engine import Engine, default_rows
from vqdiff.serving.forward import Forward, answered_by
from vqdiff.serving.guards import Guards
from vqdiff.serving.hosts import AllowedHosts
from vqdiff.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "vqdiff"
"""The name of the application and of its deployment in Ray Serve."""


@dataclass(frozen=True)
class Replica:
    """What each replica serves, and its limits.

    sources: sources for `vqdiff.load`, by the model names in requests. max_rows: None for the default of the device.
    """

    sources: Mapping[str, str]
    device: str
    precision: Precision
    limits: Limits
    token: str | None = None
    max_rows: int | None = None
    max_waiting: int = 64
    allowed_hosts: AllowedHosts | None = None
    batch_invariant: bool = False

    def build(self, name: str) -> FastAPI:
        """Build the application, with its own models and engine; responses have ``name`` as ``X-Replica``."""
        pipes = {
            one: load(source, device=self.device, precision=self.precision, batch_invariant=self.batch_invariant)
            for one, source in self.sources.items()
        }
        where = next(iter(pipes.values())).model.device
        rows = default_rows(where) if self.max_rows is None else self.max_rows
        engine = Engine(max_rows=rows, max_waiting=self.max_waiting)
        quieten()
        app = create_app(pipes, engine, self.limits, self.token, allowed_hosts=self.allowed_hosts)
        app.add_middleware(_Signed, name=name)
        return app


class _Signed:
    """ASGI middleware that adds the name of the replica to every response."""

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self.app, self.header = app, (b"x-replica", name.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self.header]
            await send(message)

        await self.app(scope, receive, signed)


def run(replica: Replica, *, replicas: int, host: str, port: int, max_connections: int) -> None:
    """Serve at ``host`` and ``port`` until SIGTERM or Ctrl-C, then finish the accepted requests.

    Uses the Ray cluster of ``RAY_ADDRESS`` if that is set, otherwise a new one, which listens on the loopback address
    only and ends with this process. max_connections: requests that a replica processes at once.

    Raises InputError for more replicas than the cluster has room for, and for an InputError of a replica.
    """
    if replicas < 1:
        raise InputError(f"replicas is {replicas}: at least 1 is needed")
    for source in replica.sources.values():
        find(source)
    with _ray() as ray:
        from ray import serve

        device, resources = share(ray.nodes(), replicas, replica.device)
        placed = _placed(replica, device)
        deployment: Any = serve.deployment  # typed as what it decorates
        actors = deployment(
            _ReplicaActor,
            name=NAME,
            num_replicas=replicas,
            ray_actor_options=resources,
            max_ongoing_requests=max_connections,
            max_queued_requests=max_connections,
            max_constructor_retry_count=1,
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=replica.limits.timeout + 1,
            health_check_period_s=2,
        ).bind(placed)
        front = deployment(
            serve.ingress(_front(placed))(),
            name="front",
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=replicas * max_connections,
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=replica.limits.timeout + 1,
        ).bind(actors)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        try:
            serve.run(front, name=NAME, logging_config=quiet)
        except RuntimeError as error:
            message = serve.status().applications[NAME].deployments[NAME].message
            if mistake := re.search(rf"^{InputError.__module__}.InputError: (.*)", message, re.MULTILINE):
                raise InputError(mistake[1]) from error  # Ray passes on only the text
            raise
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        print(f"http://{host}:{port}/docs: {', '.join(replica.sources)}, {replicas} replicas on {device}", flush=True)
        stop.wait()
        serve.delete(NAME, _blocking=False)
        while NAME in serve.status().applications:
            time.sleep(0.1)
        time.sleep(1)  # the replicas are done: let the proxies forward the rest
        if "RAY_ADDRESS" in os.environ and not serve.status().applications:
            serve.shutdown()  # also closes the port


def share(nodes: list[dict[str, Any]], replicas: int, device: str) -> tuple[str, dict[str, int]]:
    """Return the device and the resources of every replica: a GPU, or an equal part of the processors.

    nodes: Ray's description of its machines. Raises InputError if the cluster is too small.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(one.get("GPU", 0)) for one in there)
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"the device is {device!r}: replicas take auto, cpu or cuda, a GPU for each")
    if device == "cuda" or (device == "auto" and gpus):
        if gpus < replicas:
            raise InputError(f"{replicas} replicas need a GPU each, and the cluster has {gpus}: use fewer, or cpu")
        return "cuda", {"num_gpus": 1}
    cores = [int(one.get("CPU", 0)) for one in there]
    for each in range(max(cores, default=0), 0, -1):
        if sum(one // each for one in cores) >= replicas:
            return "cpu", {"num_cpus": each}
    raise InputError(f"{replicas} replicas need a processor each, and the cluster has {sum(cores)}: use fewer")


class _ReplicaActor:
    """A replica. Ray Serve checks its health regularly and replaces it if the check fails."""

    def __init__(self, replica: Replica) -> None:
        from ray import serve

        self.app = replica.build(serve.get_replica_context().replica_tag)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message]:
        async with aclosing(answered_by(self.app, scope, body)) as messages:
            async for message in messages:
                yield message

    def check_health(self) -> None:
        if not self.app.state.service.engine.alive:
            raise RuntimeError("the engine has ended")


def _placed(replica: Replica, device: str) -> Replica:
    """Return the replica with a device, and with absolute paths, which are valid wherever it starts."""
    places = {
        name: source if source in bundled() or not Path(source).exists() else str(Path(source).resolve())
        for name, source in replica.sources.items()
    }
    return replace(replica, sources=places, device=device)


def _front(replica: Replica) -> Callable[[], ASGIApp]:
    def build() -> ASGIApp:
        from ray import serve
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

        lost = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
        forward = Forward(serve.get_deployment_handle(NAME, NAME), lost)
        return Guards(forward, limits=replica.limits, token=replica.token, allowed_hosts=replica.allowed_hosts)

    return build


@contextmanager
def _ray() -> Iterator[ModuleType]:
    """Yield Ray, connected to the cluster of RAY_ADDRESS or to a new one, which ends with the block."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no usage reports
    own = "RAY_ADDRESS" not in os.environ
    if own:
        # Ray's processes use only the loopback address (despite the variable's name) and a secret of this run.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    options: dict[str, Any] = {"address": "local", "include_dashboard": False} if own else {}
    ray.init(**options, logging_level=logging.ERROR)
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.WARNING)
    try:
        yield ray
    finally:
        ray.shutdown()
