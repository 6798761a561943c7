"""Throughput and latency of three ways to serve the bundled model to clients that come at random (Poisson arrivals).

One at a time: requests are drawn one after the other. Whole requests: up to ``--rows`` of those that wait are drawn
together, and the batch ends before the next begins. Steps: the engine, which lets them in and out between steps.

    python benchmarks/serving.py --rates 0.5 1 2 4 --seconds 60 --json results.json --plot curve.png
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

import vqdiff
from vqdiff.pipeline import Pipeline
from vqdiff.serving.engine import Engine
from vqdiff.work import Work

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
            work = Work([one[0] for one in batch], [one[1] for one in batch], settings)
            self.pipe.draw(work, batch_size=self.size)
            for _, _, done in batch:
                done()


class Steps:
    """The engine."""

    def __init__(self, pipe: Pipeline, size: int) -> None:
        self.pipe, self.engine = pipe, Engine(max_rows=size, max_waiting=100_000)

    def ask(self, prompt: str, seed: int, done: Done) -> None:
        work = Work.generate(self.pipe.model, prompt, seed=seed)
        self.engine.submit(self.pipe, work).add_done_callback(lambda _: done())

    def stop(self) -> None:
        self.engine.stop()


def measure(way: Batches | Steps, rate: float, seconds: float) -> dict[str, float]:
    """Send requests at ``rate`` a second for so many seconds, the same ones to every way, and wait for all answers."""
    chance, latencies, lock = random.Random(0), list[float](), threading.Lock()
    start = due = time.perf_counter()
    number = 0
    while (due := due + chance.expovariate(rate)) < start + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))

        def done(due: float = due) -> None:
            with lock:
                latencies.append(time.perf_counter() - due)

        way.ask(PROMPTS[number % len(PROMPTS)], number, done)
        number += 1
    way.stop()
    latencies.sort()
    return {
        "requests": number,
        "pictures_a_second": len(latencies) / (time.perf_counter() - start),
        "p50": latencies[len(latencies) // 2],
        "p95": latencies[min(len(latencies) - 1, round(0.95 * len(latencies)))],
    }


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Latency against load, a line a way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("p50", "p95"), strict=True):
        for way in dict.fromkeys(one["way"] for one in results):
            rows = [one for one in results if one["way"] == way]
            axis.plot([one["rate"] for one in rows], [one[name] for one in rows], marker="o", label=way)
        axis.set(xlabel="requests a second", ylabel=f"{name} latency, s", yscale="log")
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=8, help="pictures drawn together at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="requests a second")
    parser.add_argument("--seconds", type=float, default=60, help="of arrivals at each rate")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()

    pipe = vqdiff.load(asked.model, device=asked.device)
    pipe(list(PROMPTS))  # warm
    ways: dict[str, Callable[[], Batches | Steps]] = {
        "one at a time": lambda: Batches(pipe, 1),
        "whole requests": lambda: Batches(pipe, asked.rows),
        "steps": lambda: Steps(pipe, asked.rows),
    }
    print(f"{pipe.model.device}, {torch.get_num_threads()} threads, {asked.rows} rows, {pipe.model.sampling}")
    print("| requests a second | way | pictures a second | p50, s | p95, s |\n|---|---|---|---|---|")
    results = list[dict[str, Any]]()
    for rate in asked.rates:
        for name, start in ways.items():
            one = measure(start(), rate, asked.seconds)
            results.append({"rate": rate, "way": name, "rows": asked.rows, **one})
            print(f"| {rate:g} | {name} | {one['pictures_a_second']:.2f} | {one['p50']:.2f} | {one['p95']:.2f} |")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")
    if asked.plot:
        plot(results, asked.plot)


if __name__ == "__main__":
    main()
