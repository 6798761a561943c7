"""Seconds of a denoiser step in the runtimes of exported folders and in vqdiff, in turn.

    vqdiff export emoji -o emoji-onnx && vqdiff export emoji -o emoji-openvino --to openvino
    python benchmarks/exported.py emoji-onnx emoji-openvino

A step is the logits of all positions of one guided image (two rows) of the bundled model in float32. vqdiff has
prepared the condition before, as it does once per image; graphs compute it in every step. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import vqdiff
from vqdiff.bench.machine import describe_machine
from vqdiff.export import FORMATS


@torch.inference_mode()
def main() -> None:
    """Print a table: median and quartiles of each program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, in one thread")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if arguments.cpu_time:
        torch.set_num_threads(1)
    model = vqdiff.load("emoji", device="cpu", precision="float32").model
    condition, null = model.encode(["a red apple"]), model.null(1)
    assert condition is not None
    assert null is not None
    both = torch.cat([condition, null]).contiguous()
    bound, K = model.bind(condition, null), model.schedule.num_codes
    tokens = torch.randint(0, K + 1, (1, model.num_tokens)).repeat(2, 1)
    programs: dict[str, Callable[[int], torch.Tensor]] = {"vqdiff": lambda t: bound(tokens, torch.full((2,), t))}
    for folder in arguments.folders:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        form = FORMATS[manifest["format"]]
        compute = form.open(folder / f"denoiser{form.suffix}", torch.get_num_threads())
        programs[f"{manifest['format']}, {manifest['storage']} weights"] = lambda t, compute=compute: compute(
            (tokens, torch.full((2,), t), both)
        )
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for step in range(-3, arguments.steps):
        for name, program in programs.items():
            start = clock()
            program(1 + step % model.schedule.num_steps)
            if step >= 0:
                seconds[name].append(clock() - start)
    print(json.dumps(describe_machine(torch.device("cpu"))))
    print("| program | milliseconds per step | of vqdiff's |\n|---|--:|--:|")
    for name, values in seconds.items():
        low, middle, high = (1000 * value for value in statistics.quantiles(values, n=4))
        ratio = statistics.median(mine / own for mine, own in zip(values, seconds["vqdiff"], strict=True))
        print(f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratio:.2f} |")


if __name__ == "__main__":
    main()
