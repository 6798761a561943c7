"""Time one picture of the bundled model with its default settings: the whole command from cold, and warm."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import vqdiff

REPEATS = 5


def main() -> None:
    cold = list[float]()
    with tempfile.TemporaryDirectory() as room:
        command = [sys.executable, "-m", "vqdiff", "generate", "a red apple", "-o", str(Path(room) / "apple.png")]
        for _ in range(REPEATS):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            cold.append(time.perf_counter() - start)
    pipe = vqdiff.load("emoji")
    pipe("a red apple")
    warm = list[float]()
    for seed in range(REPEATS):
        start = time.perf_counter()
        pipe("a red apple", seed=seed)
        warm.append(time.perf_counter() - start)
    print(f"{torch.get_num_threads()} threads, {pipe.model.sampling}")
    for name, times in ("command from cold", cold), ("one picture, warm", warm):
        print(f"{name}: median {statistics.median(times):.2f} s, worst {max(times):.2f} s of {REPEATS}")


if __name__ == "__main__":
    main()
