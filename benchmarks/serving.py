"""Throughput and latency of three ways to serve a model to clients that come at random (Poisson arrivals).

One at a time: requests are drawn one after the other. Whole requests: up to ``--rows`` of those that wait are drawn
together, and the batch ends before the next begins. Steps: the engine, which lets them in and out between steps.

    python benchmarks/serving.py -o runs/serving    # about 8 minutes; results.json, curve.png, table.md

The loads are in shares of what one at a time can do, which is measured first. Every way gets the same requests at the
same times; latency is from a request's arrival to its pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import vqdiff
from vqdiff.bench.machine import describe_machine
from vqdiff.evaluation.plots import save_figure
from vqdiff.foundation.threads import release_threads
from vqdiff.model import Job
from vqdiff.pipeline import Pipeline
from vqdiff.requests import DrawRequest
from vqdiff.serving.engine import Engine, default_rows

PROMPTS = ("a red apple", "a cat", "a green tree", "smiling face", "a house", "a yellow flower", "a fish", "a car")
Done = Callable[[], None]


class Batches:
    """A thread that draws up to ``size`` waiting requests at a time, from their first step to their last."""

    def __init__(self, pipe: Pipeline, size: int) -> None:
        self.pipe, self.size = pipe, size
        self._asked: SimpleQueue[tuple[str, int, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def ask(self, prompt: str, seed: int, done: Done) -> None:
        self._asked.put((prompt, seed, done))

    def stop(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._asked.get()) is not None:
            batch, settings = [first], self.pipe.model.sampling
            while len(batch) < self.size:
                try:
                    more = self._asked.get_nowait()
                except Empty:
                    break
                if more is None:
                    self._asked.put(None)
                    break
                batch.append(more)
            job = Job([one[0] for one in batch], [one[1] for one in batch], settings)
            self.pipe.sample(job, batch_size=self.size)
            for _, _, done in batch:
                done()


class Steps:
    """The engine."""

    def __init__(self, pipe: Pipeline, size: int) -> None:
        self.pipe, self.engine = pipe, Engine(max_rows=size, max_waiting=100_000)

    def ask(self, prompt: str, seed: int, done: Done) -> None:
        job = DrawRequest(prompts=prompt, seed=seed).job(self.pipe.model)
        self.engine.submit(self.pipe, job).add_done_callback(lambda _: done())

    def stop(self) -> None:
        self.engine.stop()


def measure(way: Batches | Steps, rate: float, seconds: float) -> dict[str, float]:
    """Send requests at ``rate`` a second for so many seconds, the same ones to every way, and wait for all answers."""
    chance, latencies, lock = random.Random(0), list[float](), threading.Lock()
    start = due = time.perf_counter()
    number = 0
    while due < start + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))

        def done(due: float = due) -> None:
            with lock:
                latencies.append(time.perf_counter() - due)

        way.ask(PROMPTS[number % len(PROMPTS)], number, done)
        number += 1
        due += chance.expovariate(rate)
    way.stop()
    took = time.perf_counter() - start
    assert len(latencies) == number
    latencies.sort()
    return {
        "requests": number,
        "pictures_a_second": number / took,
        "p50": latencies[math.ceil(0.5 * number) - 1],
        "p95": latencies[math.ceil(0.95 * number) - 1],
    }


def told(machine: dict[str, Any]) -> str:
    """A machine in a line."""
    threads = f"{machine['cores']} cores, {machine['threads']} threads, load {machine.get('load', '?')} before"
    return ", ".join([machine.get("gpu", machine["processor"]), threads, f"torch {machine['torch']}"])


def table(results: list[dict[str, Any]]) -> str:
    """A row a load and way, in Markdown."""
    lines = ["| requests a second (load) | way | pictures a second | p50, s | p95, s |", "|---|---|---|---|---|"]
    for one in results:
        rate, numbers = f"{one['rate']:.2f} ({one['load']:g})", (one["pictures_a_second"], one["p50"], one["p95"])
        lines.append(" | ".join(["| " + rate, one["way"], *(f"{number:.2f}" for number in numbers)]) + " |")
    return "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Throughput and latency against load, a line a way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = {"pictures_a_second": "pictures a second", "p50": "median latency, s", "p95": "95 % latency, s"}
    for axis, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for way in dict.fromkeys(one["way"] for one in results):
            rows = [one for one in results if one["way"] == way]
            axis.plot([one["rate"] for one in rows], [one[name] for one in rows], marker="o", label=way)
        axis.set(xlabel="requests a second", ylabel=label, yscale="linear" if name == "pictures_a_second" else "log")
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, help="pictures drawn together at most; by default as vqdiff serve")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 1.1, 1.4], help="shares of one at a time")
    parser.add_argument("--seconds", type=float, default=36, help="of arrivals at each load")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    asked = parser.parse_args()

    pipe = vqdiff.load(asked.model, device=asked.device)
    device, settings = pipe.model.device, pipe.model.sampling
    where, rows = told(describe_machine(device)), asked.rows or default_rows(device)
    pipe(list(PROMPTS))  # warm
    start = time.perf_counter()
    for seed, prompt in enumerate(PROMPTS):
        pipe(prompt, seed=seed)
    alone = len(PROMPTS) / (time.perf_counter() - start)
    release_threads()  # the threads of each way compute from here on
    print(f"{where}\none at a time: {alone:.2f} pictures a second; {rows} rows; {settings}", flush=True)

    ways: dict[str, Callable[[], Batches | Steps]] = {
        "one at a time": lambda: Batches(pipe, 1),
        "whole requests": lambda: Batches(pipe, rows),
        "steps": lambda: Steps(pipe, rows),
    }
    results = list[dict[str, Any]]()
    for load in asked.loads:
        for name, way in ways.items():
            results.append({"load": load, "rate": load * alone, "way": name})
            results[-1] |= measure(way(), load * alone, asked.seconds)
            print(table(results).splitlines()[-1], flush=True)
    asked.output.mkdir(parents=True, exist_ok=True)
    facts = {"machine": where, "model": asked.model, "settings": asdict(settings), "rows": rows, "alone": alone}
    record = {"command": shlex.join(["python", *sys.argv]), **facts, "seconds": asked.seconds, "results": results}
    (asked.output / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    (asked.output / "table.md").write_text(f"`{record['command']}`: {where}; {rows} rows.\n\n{table(results)}")
    plot(results, asked.output / "curve.png")


if __name__ == "__main__":
    main()
