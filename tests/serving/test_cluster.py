"""Two replicas on a Ray cluster of this machine, with real requests; and how replicas share a cluster."""

from __future__ import annotations

import base64
import io
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import psutil
import pytest
from PIL import Image

import vqdiff
from servers import client, process, soon, wait_for
from vqdiff import cli
from vqdiff.foundation.errors import InputError
from vqdiff.serving.cluster import share

TOKEN = "secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Cluster:
    address: str
    server: Any
    model: Path

    def ask(self, **body: object) -> httpx.Response:
        with client(self.address) as http:  # a connection of its own
            return http.post("/api/draw", json={"prompt": "1", "steps": 2} | body, headers=HEADERS)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.server.pid).children(recursive=True)

    def replicas(self) -> list[psutil.Process]:
        return [one for one in self.family() if one.cmdline()[:1] == ["ray::ServeReplica:vqdiff:vqdiff"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = ["--device", "cpu", "--replicas", "2", "--token", TOKEN, "--max-images", "10", "--timeout", "60"]
    folder = tmp_path_factory.mktemp("cluster")
    with process(folder, *options) as (address, server):
        yield Cluster(address, server, folder / "toy")
        server.terminate()
        server.wait(60)


def pixels(text: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB").tobytes()


@pytest.mark.slow
def test_both_replicas_draw_what_the_pipeline_draws(cluster: Cluster) -> None:
    ai = openai.OpenAI(base_url=f"{cluster.address}/v1", api_key=TOKEN, max_retries=0)
    pipe, seen, seed = vqdiff.load(cluster.model, device="cpu"), set[str](), 0
    while len(seen) < 2:
        assert seed < 200, f"only {seen} answered"
        answer = ai.images.with_raw_response.generate(prompt="2", n=2, extra_body={"seed": seed, "steps": 2})
        seen.add(answer.headers["x-replica"])
        drawn = answer.parse().data
        assert drawn is not None
        wanted = pipe("2", num_images=2, seed=seed, steps=2)
        assert [pixels(one.b64_json or "") for one in drawn] == [one.tobytes() for one in wanted]
        seed += 1


@pytest.mark.slow
def test_limits_token_and_events_are_those_of_one_server(cluster: Cluster) -> None:
    with client(cluster.address) as http:
        assert http.get("/readyz").status_code == 200
        assert http.get("/api/models").status_code == 401
        assert http.get("/docs", headers=HEADERS).status_code == 200
    assert "1 to 10 images" in cluster.ask(n=11).json()["error"]["message"]
    assert cluster.ask(prompt="x" * 17 * 2**20).status_code == 413
    events = cluster.ask(stream=True).text
    assert events.count("event: done") == 1
    assert "event: preview" in events


@pytest.mark.slow
def test_who_goes_away_costs_nothing_there_either(cluster: Cluster) -> None:
    with client(cluster.address) as http:
        body = {"prompt": "1", "n": 10, "steps": 64, "stream": True}
        with http.stream("POST", "/api/draw", json=body, headers=HEADERS) as answer:
            name = answer.headers["x-replica"]
            next(answer.iter_bytes())

        def gave_up() -> bool:
            metrics = http.get("/metrics", headers=HEADERS)
            return metrics.headers["x-replica"] == name and "vqdiff_cancelled_total 1.0" in metrics.text

        assert soon(gave_up, http)


@pytest.mark.slow
def test_all_stays_on_this_machine(cluster: Cluster) -> None:
    """Ray reports to nobody; its processes talk over loopback, and what listens beyond it requires Ray's token."""
    family = cluster.family()
    replicas = [one for one in family if one.name().startswith("ray::ServeRepli")]  # and what forwards to them
    assert len(family) > 5
    for one in family:
        if not one.name().startswith("ray::"):  # what has given itself a title has written it over its environment
            environment = one.environ()
            assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
            assert environment["RAY_AUTH_MODE"] == "token"
            assert len(environment["RAY_AUTH_TOKEN"]) == 64
        for link in one.net_connections("inet"):
            if link.status == psutil.CONN_LISTEN and one in replicas:
                continue
            assert link.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", (one.cmdline(), link)


@pytest.mark.slow
def test_a_killed_replica_is_replaced_and_the_other_goes_on(cluster: Cluster) -> None:
    before = cluster.replicas()
    assert len(before) == 2
    bodies: list[dict[str, object]] = (
        [{"seed": 0}] * 8 + [{}] * 8 + [{"stream": True}] * 4 + [{"stream": True, "seed": 0}] * 4
    )
    answers: list[httpx.Response | None] = [None] * len(bodies)

    def ask(i: int) -> None:
        answers[i] = cluster.ask(n=4, **{"steps": 64} | bodies[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    with client(cluster.address) as http:
        wait_for(lambda: "vqdiff_running_images 8.0" in http.get("/metrics", headers=HEADERS).text)
    before[0].kill()
    for thread in threads:
        thread.join(120)
    told = list[str]()
    for body, answer in zip(bodies, answers, strict=True):
        assert answer is not None
        if answer.headers["content-type"].startswith("text/event-stream"):
            told.append(answer.text.rpartition("event: ")[2].partition("\n")[0])
        else:
            assert answer.status_code == 200 or "has died" in answer.json()["error"]["message"]
            told.append("done" if answer.status_code == 200 else "error")
        assert told[-1] in ("done", "error")
        assert told[-1] == "done" or "seed" not in body
    assert "error" in told
    drawn = [one.json()["data"] for one in answers[:8] if one is not None]
    assert all(one == drawn[0] for one in drawn)
    assert [cluster.ask(seed=0).status_code for _ in range(20)] == [200] * 20
    wait_for(lambda: len(cluster.replicas()) == 2 and before[0] not in cluster.replicas(), 60)
    last = cluster.ask(seed=0)
    old, seen = last.headers["x-replica"], set[str]()
    wait_for(lambda: seen.add(cluster.ask(seed=0).headers["x-replica"]) or len(seen | {old}) == 2, 60)
    assert cluster.ask(seed=0).json()["data"] == last.json()["data"]


@pytest.mark.slow
def test_stopped_replicas_finish_what_they_have_taken(cluster: Cluster) -> None:
    answers = list[httpx.Response]()
    family = cluster.family()
    threads = [threading.Thread(target=lambda: answers.append(cluster.ask(n=4, steps=64))) for _ in range(12)]
    for thread in threads:
        thread.start()
    with client(cluster.address) as http:
        wait_for(lambda: "vqdiff_running_images 8.0" in http.get("/metrics", headers=HEADERS).text)
    cluster.server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert [(one.status_code, len(one.json()["data"])) for one in answers] == [(200, 4)] * 12
    assert cluster.server.wait(60) == 0
    assert not psutil.wait_procs(family, timeout=20)[1]


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "replicas", "device", "wanted"),
    [
        ([node(CPU=2)], 2, "auto", ("cpu", {"num_cpus": 1})),
        ([node(CPU=64)], 3, "cpu", ("cpu", {"num_cpus": 21})),
        ([node(CPU=8), node(CPU=8), node(CPU=4)], 3, "cpu", ("cpu", {"num_cpus": 4})),
        ([node(CPU=8), {"Alive": False, "Resources": {}}], 1, "cpu", ("cpu", {"num_cpus": 8})),
        ([node(CPU=8, GPU=2), node(CPU=8, GPU=1)], 3, "auto", ("cuda", {"num_gpus": 1})),
        ([node(CPU=8, GPU=2)], 4, "cpu", ("cpu", {"num_cpus": 2})),
    ],
)
def test_each_replica_has_a_gpu_or_its_part_of_the_processors(
    nodes: list[dict[str, Any]], replicas: int, device: str, wanted: tuple[str, dict[str, int]]
) -> None:
    assert share(nodes, replicas, device) == wanted


@pytest.mark.parametrize(
    ("nodes", "device", "says"),
    [
        ([node(CPU=2)], "cpu", "3 replicas need a processor each, and the cluster has 2"),
        ([node(CPU=8, GPU=2)], "auto", "3 replicas need a GPU each, and the cluster has 2"),
        ([node(CPU=8)], "cuda", "3 replicas need a GPU each, and the cluster has 0"),
        ([node(CPU=8, GPU=8)], "cuda:1", "replicas take auto, cpu or cuda"),
    ],
)
def test_more_replicas_than_there_is_room_for(nodes: list[dict[str, Any]], device: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        share(nodes, 3, device)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--replicas", "0"], "replicas is 0"),
        (["--replicas", "2", "--model", "/nowhere"], "no model '/nowhere'"),
        (["--replicas", "2", "--header-timeout", "5"], "--header-timeout is 5.0, and replicas have no such limit"),
        (["--replicas", "2", "--max-connections-per-address", "9"], "--max-connections-per-address is 9, and replicas"),
    ],
)
def test_mistakes_are_reported_before_ray(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["serve", "--port", "0", *options])
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_what_a_replica_finds_wrong_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with process(tmp_path, "--replicas", "1", "--max-rows", "0") as (address, server):
        assert not address
        assert server.wait(60) == 2
