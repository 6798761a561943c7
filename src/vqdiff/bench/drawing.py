"""Drawing pictures: steps of two programs in turn, decoding, memory, and starts from cold."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vqdiff.bench import ours
from vqdiff.bench.machine import describe_machine
from vqdiff.bench.programs import PROMPT, Decode, Decoded, Drawn, Dtype, Task
from vqdiff.bench.report import Report, check_like
from vqdiff.bench.sizes import random_architecture, step_flops, write_random
from vqdiff.bench.workers import Worker, take_turns
from vqdiff.checkpoints.presets import RECIPES, Architecture
from vqdiff.errors import InputError
from vqdiff.measuring import matmul_peak
from vqdiff.model import Model
from vqdiff.pipeline import find, has_bf16_units, pick_device
from vqdiff.progress import track
from vqdiff.sampling import SamplingSettings

Size = Literal["emoji", "small", "coco", "ithq"]
Say = Callable[[str], None]

_OURS, _PEER = "vqdiff", "diffusers"
_BUNDLED = "emoji"
_GUIDED, _PLAIN = (
    SamplingSettings("ancestral", steps=1, guidance=RECIPES[name].guidance, truncation=RECIPES[name].truncation)
    for name in ("ithq-guided", "ithq")
)
_ON_CPU: dict[str, tuple[int, tuple[int, ...]]] = {"small": (20, (1, 8, 32)), "coco": (7, (1, 8)), "ithq": (5, (1,))}
"""Steps to time and batches, by size, where more would take hours."""
_DEFAULT = 20, (1, 8, 32)
_ROUNDING: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""How far apart log-probabilities may be, as a share of their spread."""
_STARTS = 3
_WARM = 5
_MANY = 64


@dataclass(frozen=True)
class Options:
    """What to measure a model with; None for what fits the device and the size."""

    peer: bool
    """Beside diffusers?"""
    dtype: Dtype | None = None
    peer_dtype: Dtype | None = None
    device: str = "auto"
    steps: int | None = None
    batches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("steps", [self.steps]), ("batch", self.batches)):
            if wrong := [value for value in values if value is not None and value < 1]:
                raise InputError(f"--{name} is {wrong[0]}: at least 1 is needed")
        if self.peer and find_spec(_PEER) is None:
            raise InputError("diffusers is not installed: pip install 'vqdiff[bench]', or measure with --against none")

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """The precision of each program."""
        best: Dtype = "bfloat16" if has_bf16_units(pick_device(self.device)) else "float32"
        own = self.dtype or best
        found: dict[str, Dtype] = {_OURS: own}
        return {**found, _PEER: self.peer_dtype or own} if self.peer else found


def bench_random(size: str, options: Options, command: str, say: Say, sizes: Architecture | None = None) -> Report:
    """Measure a model with random weights of a published size, or of ``sizes``.

    Raises InputError if the two programs do not compute the same.
    """
    sizes = sizes or random_architecture(size)
    device = pick_device(options.device)
    steps, batches = _ON_CPU.get(size, _DEFAULT) if device.type == "cpu" else _DEFAULT
    steps, batches = options.steps or steps, options.batches or batches
    tasks = [Task(batch, _GUIDED, steps) for batch in batches]
    tasks.insert(1, Task(batches[0], _PLAIN, steps))
    bench = _Bench(size, options, command, sizes.build("meta"), say)
    bench.estimate(tasks)
    with tempfile.TemporaryDirectory(prefix="vqdiff-bench-") as room:
        say(f"writing random weights to {room} ...")
        folders = write_random(sizes, Path(room), bench.dtypes)
        with bench.workers(folders) as workers:
            bench.check(workers)
            bench.draw(workers, tasks)
        bench.start_from_cold(_first_pictures(folders, bench.dtypes, str(device), Path(room) / "first.png"))
    return bench.report


def bench_bundled(options: Options, command: str, say: Say) -> Report:
    """Measure the bundled model at its default settings, whole pictures and single steps."""
    meta = Model.load(find(_BUNDLED), shapes_only=True)
    bench = _Bench(_BUNDLED, replace(options, peer=False), command, meta, say)
    bench.report.notes.append(f"Default settings: {meta.sampling}.")
    settings, batches = meta.sampling, options.batches or _DEFAULT[1]
    if options.steps:
        settings = replace(settings, steps=options.steps)
        settings.check(meta.num_tokens)
    tasks = [Task(batch, settings, None) for batch in batches]
    tasks.insert(1, Task(batches[0], replace(settings, guidance=1.0), None))
    with bench.workers({_OURS: _BUNDLED}) as workers:
        bench.draw(workers, tasks)
        for count, times in ((1, _WARM), (_MANY, 1)):
            seconds = [workers[0].ask("pictures", count) for _ in track(range(times), f"{count} pictures", times)]
            bench.report.add("whole pictures, warm, from the prompt on", f"seconds for {count}", seconds)
    with tempfile.TemporaryDirectory(prefix="vqdiff-bench-") as room:
        command_line = [sys.executable, "-m", "vqdiff", "generate", PROMPT, "-o", str(Path(room) / "first.png")]
        bench.start_from_cold({_OURS: [*command_line, "--device", options.device]})
    return bench.report


class _Bench:
    """A report on its way."""

    def __init__(self, size: str, options: Options, command: str, meta: Model, say: Say) -> None:
        self.device, self.dtypes, self.meta, self.say = pick_device(options.device), options.dtypes, meta, say
        title = ", ".join([size, *(f"{name} {dtype}" for name, dtype in self.dtypes.items()), self.device.type])
        programs = [f"{name} {dtype}" for name, dtype in self.dtypes.items()]
        self.report = Report(title, command, programs, describe_machine(self.device))
        peaks = {dtype: matmul_peak(self.device, getattr(torch, dtype)) for dtype in set(self.dtypes.values())}
        self.peaks = {name: peaks[dtype] for name, dtype in self.dtypes.items()}
        for dtype, peak in peaks.items():
            self.report.notes.append(f"Matrix products alone, {dtype}: {peak / 1e9:.4g} GFLOP/s.")
        self.flops = {guided: step_flops(meta, guided=guided) for guided in (False, True)}

    def estimate(self, tasks: Sequence[Task]) -> None:
        """Say how long it will take, from the operations of the steps alone."""
        flops = sum(self._flops(task) * (task.turns + 1) for task in tasks)
        minutes = sum(flops / peak for peak in self.peaks.values()) * 2 / 60 + 1
        self.say(f"{self.report.title}: about {minutes:.0f} min if nothing else runs")

    @contextmanager
    def workers(self, sources: Mapping[str, Any]) -> Iterator[list[Worker]]:
        """The programs, in processes that end with the block."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(Worker(name, _PROGRAMS[name], source, self.dtypes[name], str(self.device)))
                for name, source in sources.items()
            ]

    def check(self, workers: Sequence[Worker]) -> None:
        """Raise InputError if the programs do not predict the same from the same noisy tokens."""
        if len(workers) < 2:
            return
        codes, steps = self.meta.schedule.num_codes, self.meta.schedule.num_steps
        tokens = np.random.default_rng(0).integers(0, codes + 1, (1, self.meta.num_tokens))
        tokens[:, ::2] = codes
        ours, theirs = (worker.ask("log_probs", tokens, (steps + 1) // 2) for worker in workers)
        tolerance = max(_ROUNDING[dtype] for dtype in self.dtypes.values())
        line = check_like(ours, theirs, tolerance, "log-probabilities")
        self.say(line)
        self.report.notes.append(f"Checked before: {line}.")

    def draw(self, workers: Sequence[Worker], tasks: Sequence[Task]) -> None:
        """Time the steps of each task, and decoding for each batch."""
        for task in tasks:
            guided = task.settings.guidance != 1
            work = f"{_pictures(task.batch)}, {'guided' if guided else 'unguided'}"
            drawn: list[Drawn] = take_turns(workers, "draw", task, task.turns, f"{work}: steps")
            self._add_steps(work, task, drawn)
            if not guided:
                continue
            todo = Decode(task.batch)
            decoded: list[Decoded] = take_turns(workers, "decode", todo, todo.times, f"{work}: decode")
            self.report.add(work, "seconds to decode", *(each.seconds for each in decoded), better=_less)
            memory = [[each.memory / 2**20] for each in decoded]
            self.report.add(work, "peak memory beyond the weights in decoding, MiB", *memory, better=_less)
            count = self.meta.schedule.num_steps if task.steps else task.settings.steps
            rates = [
                [task.batch / (count * np.median(each.steps) + np.median(end.seconds))]
                for each, end in zip(drawn, decoded, strict=True)
            ]
            self.report.add(work, f"pictures a second, of {count} such steps", *rates, better=_more)

    def start_from_cold(self, commands: dict[str, list[str]]) -> None:
        """Time whole processes, from nothing to a picture on disk."""
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in track(range(_STARTS), "starts from cold", _STARTS):
            for name, command in commands.items():
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds[name].append(time.perf_counter() - start)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        what = "seconds to one picture" + ("" if self.report.title.startswith(_BUNDLED) else " of one step")
        self.report.add("a new process", what, *seconds.values(), better=_less)

    def _add_steps(self, work: str, task: Task, drawn: Sequence[Drawn]) -> None:
        add, flops = self.report.add, self._flops(task)
        outside = [
            [100 * (1 - network / step) for step, network in zip(each.steps, each.network, strict=True)]
            for each in drawn
        ]
        share = [
            [100 * flops / step / peak for step in each.steps]
            for each, peak in zip(drawn, self.peaks.values(), strict=True)
        ]
        add(work, "seconds a step", *(each.steps for each in drawn), better=_less)
        add(work, "outside the network, % of a step", *outside)
        add(work, "of the matrix products' peak, %", *share)
        add(work, "seconds before the first step", *([each.setup] for each in drawn))
        memory = [[each.memory / 2**20] for each in drawn]
        add(work, "peak memory beyond the weights in steps, MiB", *memory, better=_less)

    def _flops(self, task: Task) -> int:
        return task.batch * self.flops[task.settings.guidance != 1]


def _peer(folder: Path, dtype: Dtype, device: str) -> Any:
    from vqdiff.bench.peer import Diffusers

    return Diffusers(folder, dtype, device)


_PROGRAMS: dict[str, Callable[..., Any]] = {_OURS: ours.Ours, _PEER: _peer}


def _first_pictures(folders: dict[str, Path], dtypes: dict[str, Dtype], device: str, out: Path) -> dict[str, list[str]]:
    """What each program is, as a command, that loads a model and draws one picture in one step."""
    code = {_OURS: ours.first_picture}
    if _PEER in folders:
        from vqdiff.bench import peer

        code[_PEER] = peer.first_picture
    return {
        name: [sys.executable, "-c", code[name](folder, dtypes[name], device, out)] for name, folder in folders.items()
    }


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _less(ours: float, theirs: float) -> float:
    return theirs / ours if ours > 0 else float("inf")


def _more(ours: float, theirs: float) -> float:
    return ours / theirs
