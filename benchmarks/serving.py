"""Throughput and latency of three ways to serve a model to clients that arrive at random (Poisson process).

One at a time: requests are processed one after the other. Whole requests: up to ``--rows`` waiting requests form a
batch, which ends before the next begins. Steps: the engine, which admits and releases requests between steps.

    python benchmarks/serving.py -o runs/serving    # about 8 minutes; results.json, curve.png, table.md

The loads are relative to the throughput of one at a time, which is measured first. Every way gets the same requests at
the same times; latency is from a request's arrival to its images.
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
    """A thread that processes up to ``size`` waiting requests at a time, from their first step to their last."""

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
    """Send requests at ``rate`` per second for ``seconds``, the same ones to every way, and wait for all answers."""
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


def one_line(machine: dict[str, Any]) -> str:
    """Describe a machine in one line."""
    threads = f"{machine['cores']} cores, {machine['threads']} threads, load {machine.get('load', '?')} before"
    return ", ".join([machine.get("gpu", machine["processor"]), threads, f"torch {machine['torch']}"])


def table(results: list[dict[str, Any]]) -> str:
    """Format one row per load and way, in Markdown."""
    lines = ["| requests per second (load) | way | images per second | p50, s | p95, s |", "|---|---|---|---|---|"]
    for one in results:
        rate, numbers = f"{one['rate']:.2f} ({one['load']:g})", (one["pictures_a_second"], one["p50"], one["p95"])
        lines.append(" | ".join(["| " + rate, one["way"], *(f"{number:.2f}" for number in numbers)]) + " |")
    return "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plot throughput and latency against load, one line per way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = {"pictures_a_second": "images per second", "p50": "median latency, s", "p95": "95 % latency, s"}
    for axis, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for way in dict.fromkeys(one["way"] for one in results):
            rows = [one for one in results if one["way"] == way]
            axis.plot([one["rate"] for one in rows], [one[name] for one in rows], marker="o", label=way)
        axis.set(xlabel="requests per second", ylabel=label, yscale="linear" if name == "pictures_a_second" else "log")
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, help="largest number of images in a batch; by default as for vqdiff serve")
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.5, 0.8, 1.1, 1.4], help="relative to one at a time"
    )
    parser.add_argument("--seconds", type=float, default=36, help="duration of arrivals at each load")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    options = parser.parse_args()

    pipe = vqdiff.load(options.model, device=options.device)
    device, settings = pipe.model.device, pipe.model.sampling
    where, rows = one_line(describe_machine(device)), options.rows or default_rows(device)
    pipe(list(PROMPTS))  # to warm up
    start = time.perf_counter()
    for seed, prompt in enumerate(PROMPTS):
        pipe(prompt, seed=seed)
    alone = len(PROMPTS) / (time.perf_counter() - start)
    release_threads()  # from here on, the threads of each way compute
    print(f"{where}\none at a time: {alone:.2f} images per second; {rows} rows; {settings}", flush=True)

    ways: dict[str, Callable[[], Batches | Steps]] = {
        "one at a time": lambda: Batches(pipe, 1),
        "whole requests": lambda: Batches(pipe, rows),
        "steps": lambda: Steps(pipe, rows),
    }
    results = list[dict[str, Any]]()
    for load in options.loads:
        for name, way in ways.items():
            results.append({"load": load, "rate": load * alone, "way": name})
            results[-1] |= measure(way(), load * alone, options.seconds)
            print(table(results).splitlines()[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    facts = {"machine": where, "model": options.model, "settings": asdict(settings), "rows": rows, "alone": alone}
    record = {"command": shlex.join(["python", *sys.argv]), **facts, "seconds": options.seconds, "results": results}
    (options.output / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    (options.output / "table.md").write_text(f"`{record['command']}`: {where}; {rows} rows.\n\n{table(results)}")
    plot(results, options.output / "curve.png")


if __name__ == "__main__":
    main()
