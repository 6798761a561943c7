"""Generating images: the steps of two programs in turn, decoding, memory, and cold starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqdiff.bench import Dtype, MeasuredPrecision, vqdiff_program
from vqdiff.bench.programs import DIFFUSERS, PRECISIONS, VQDIFF, Repeat, Repeated, TimedSteps, Workload, prompts
from vqdiff.bench.report import Report
from vqdiff.bench.session import Say, Session, check_counts, less, more, pictures, precision_for
from vqdiff.bench.sizes import random_architecture, step_flops, write_random
from vqdiff.bench.workers import Worker, take_turns
from vqdiff.checkpoints.presets import Architecture
from vqdiff.foundation.extras import require
from vqdiff.foundation.progress import track
from vqdiff.model import Model
from vqdiff.model.devices import pick_device
from vqdiff.model.finding import find
from vqdiff.presets import PUBLISHED

if TYPE_CHECKING:
    from vqdiff.bench.diffusers_program import Diffusers

_BUNDLED = "emoji"
_GUIDED, _PLAIN = (replace(PUBLISHED[name], sampler="ancestral", steps=1) for name in ("ithq-guided", "ithq"))
_ON_CPU: dict[str, tuple[int, tuple[int, ...]]] = {"small": (20, (1, 8, 32)), "coco": (7, (1, 8)), "ithq": (5, (1,))}
"""Steps to time and batch sizes, by model size, where more would take hours."""
_DEFAULT = 20, (1, 8, 32)
WHOLE = (Repeat(1, 5), Repeat(64, 1))
"""Images of the bundled model that are generated with all steps."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to measure a model; None for defaults that fit the device and the size."""

    against_diffusers: bool
    """Whether to compare with diffusers."""
    precision: MeasuredPrecision | None = None
    diffusers_dtype: Dtype | None = None
    device: str = "auto"
    steps: int | None = None
    batches: tuple[int, ...] = ()
    starts: int = 3
    """Number of cold starts of each program; 0 for none."""

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch=self.batches)
        if self.against_diffusers:
            require("a comparison (there is none with --against none)", "bench")

    @property
    def programs(self) -> dict[str, MeasuredPrecision]:
        """The precision of each program."""
        own = precision_for(self.precision, self.device)
        found: dict[str, MeasuredPrecision] = {VQDIFF: own}
        return {**found, DIFFUSERS: self.diffusers_dtype or PRECISIONS[own].dtype} if self.against_diffusers else found


def bench_random(
    size: str, options: SamplingOptions, command: str, say: Say, sizes: Architecture | None = None
) -> Report:
    """Measure a model with random weights of a published size, or of ``sizes``.

    Raises InputError if the two programs do not compute the same.
    """
    sizes = sizes or random_architecture(size)
    bench = SamplingSession(size, options, command, sizes.build("meta"), say)
    steps, batches = _ON_CPU.get(size, _DEFAULT) if bench.device.type == "cpu" else _DEFAULT
    steps, batches = options.steps or steps, options.batches or batches
    tasks = [Workload(batch, _GUIDED, steps) for batch in batches]
    tasks.insert(1, Workload(batches[0], _PLAIN, steps))
    bench.estimate(tasks)
    with tempfile.TemporaryDirectory(prefix="vqdiff-bench-") as room:
        say(f"writing random weights to {room} ...")
        folders = write_random(
            sizes, Path(room), {name: PRECISIONS[each].dtype for name, each in bench.programs.items()}
        )
        with bench.workers(bench.makers(folders)) as workers:
            bench.predict(workers)
            bench.draw(workers, tasks)
        bench.start_from_cold(_first_pictures(folders, bench.programs, str(bench.device), Path(room) / "first.png"))
    return bench.report


def bench_bundled(options: SamplingOptions, command: str, say: Say, whole: Sequence[Repeat] = WHOLE) -> Report:
    """Measure the bundled model at its default settings, single steps and the ``whole`` images."""
    meta = Model.load(find(_BUNDLED), shapes_only=True)
    bench = SamplingSession(_BUNDLED, replace(options, against_diffusers=False), command, meta, say)
    settings, batches = meta.settings(steps=options.steps), options.batches or _DEFAULT[1]
    tasks = [Workload(batch, settings, None) for batch in batches]
    tasks.insert(1, Workload(batches[0], replace(settings, guidance=1.0), None))
    with bench.workers(bench.makers({VQDIFF: _BUNDLED})) as workers:
        bench.predict(workers)
        bench.draw(workers, tasks)
        for task in whole:
            (drawn,) = take_turns(workers, "pictures", task, task.times, f"{pictures(task.batch)}, all steps")
            bench.report.add("whole images, warm", f"seconds for {task.batch}, at default settings", drawn.seconds)
    with tempfile.TemporaryDirectory(prefix="vqdiff-bench-") as room:
        generate = [sys.executable, "-m", "vqdiff", "generate", *prompts(1), "-o", str(Path(room) / "first.png")]
        bench.start_from_cold({VQDIFF: [*generate, "--device", options.device]})
    return bench.report


class SamplingSession(Session):
    """Measures how fast programs generate."""

    def __init__(self, size: str, options: SamplingOptions, command: str, meta: Model, say: Say) -> None:
        super().__init__(size, options.programs, pick_device(options.device), command, say)
        self.meta, self.starts = meta, options.starts
        self.flops = {guided: step_flops(meta, guided=guided) for guided in (False, True)}

    def makers(self, sources: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The functions and arguments that make each program from a model."""
        make = {VQDIFF: vqdiff_program.VQDiff, DIFFUSERS: _diffusers}
        return {name: (make[name], source, self.programs[name], str(self.device)) for name, source in sources.items()}

    def estimate(self, tasks: Sequence[Workload]) -> None:
        """Print how long it will take, estimated from the operations of the steps."""
        flops = sum(self._flops(task) * (task.turns + 1) for task in tasks)
        minutes = sum(flops / peak for peak in self.peaks.values()) * 2 / 60 + 1
        self.say(f"{self.report.title}: about {minutes:.0f} min if nothing else runs")

    def predict(self, workers: Sequence[Worker]) -> None:
        """Raise InputError if the programs' predictions for the same noisy tokens differ."""
        codes, steps = self.meta.schedule.num_codes, self.meta.schedule.num_steps
        tokens = np.random.default_rng(0).integers(0, codes + 1, (1, self.meta.num_tokens))
        tokens[:, ::2] = codes
        self.check([worker.ask("log_probs", tokens, (steps + 1) // 2) for worker in workers], "log-probabilities")

    def draw(self, workers: Sequence[Worker], tasks: Sequence[Workload]) -> None:
        """Time the steps of each task, and decoding for each batch."""
        for task in tasks:
            guided = task.settings.guidance != 1
            work = f"{pictures(task.batch)}, {'guided' if guided else 'unguided'}"
            self.report.notes.append(f"{work}: {task.settings}.")
            drawn: list[TimedSteps] = take_turns(workers, "draw", task, task.turns, f"{work}: steps")
            self._add_steps(work, task, drawn)
            if guided:
                todo = Repeat(task.batch)
                decoded: list[Repeated] = take_turns(workers, "decode", todo, todo.times, f"{work}: decode")
                self._add_pictures(work, task, drawn, decoded)

    def start_from_cold(self, commands: Mapping[str, Sequence[str]]) -> None:
        """Time whole processes, from their start to an image on disk."""
        if not self.starts:
            return
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in track(range(self.starts), "cold starts", self.starts):
            for name, command in commands.items():
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds[name].append(time.perf_counter() - start)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        what = "seconds to one image" + ("" if self.report.title.startswith(_BUNDLED) else " of one step")
        self.report.add("a new process", what, *seconds.values(), better=less)

    def _add_steps(self, work: str, task: Workload, drawn: Sequence[TimedSteps]) -> None:
        add, flops = self.report.add, self._flops(task)
        outside = [
            [100 * (1 - network / step) for step, network in zip(each.steps, each.network, strict=True)]
            for each in drawn
        ]
        share = [
            [100 * flops / step / peak for step in each.steps]
            for each, peak in zip(drawn, self.peaks.values(), strict=True)
        ]
        add(work, "seconds per step", *(each.steps for each in drawn), better=less)
        add(work, "outside the network, % of a step", *outside)
        add(work, "of the matrix products' peak, %", *share)
        add(work, "seconds before the first step", *([each.setup] for each in drawn), better=less)
        self.add_memory(work, "peak memory beyond the weights in steps", *(each.memory for each in drawn))

    def _add_pictures(
        self, work: str, task: Workload, drawn: Sequence[TimedSteps], decoded: Sequence[Repeated]
    ) -> None:
        add = self.report.add
        add(work, "seconds to decode", *(each.seconds for each in decoded), better=less)
        self.add_memory(work, "peak memory beyond the weights in decoding", *(each.memory for each in decoded))
        count = self.meta.schedule.num_steps if task.steps else task.settings.steps
        whole = list[dict[str, float]]()
        for steps, end in zip(drawn, decoded, strict=True):
            sampler = count * float(np.median(np.subtract(steps.steps, steps.network)))
            parts = {"network": count * float(np.median(steps.steps)) - sampler, "sampler": sampler}
            parts |= {"decoding": float(np.median(end.seconds)), "text and what is prepared once": steps.setup}
            whole.append(parts)
        rates = [[task.batch / sum(parts.values())] for parts in whole]
        add(work, f"images per second, of {count} such steps", *rates, better=more)
        for part in whole[0]:
            shares = [[100 * parts[part] / sum(parts.values())] for parts in whole]
            add(work, f"{part}, % of such an image", *shares)

    def _flops(self, task: Workload) -> int:
        return task.batch * self.flops[task.settings.guidance != 1]


def _diffusers(folder: Path, dtype: Dtype, device: str) -> Diffusers:
    from vqdiff.bench.diffusers_program import Diffusers

    return Diffusers(folder, dtype, device)


def _first_pictures(
    folders: Mapping[str, Path], programs: Mapping[str, MeasuredPrecision], device: str, out: Path
) -> dict[str, list[str]]:
    """Each program as a command that loads a model and generates one image in one step."""
    code: dict[str, Any] = {VQDIFF: vqdiff_program.first_picture}
    if DIFFUSERS in folders:
        from vqdiff.bench import diffusers_program

        code[DIFFUSERS] = diffusers_program.first_picture
    return {
        name: [sys.executable, "-c", code[name](folder, programs[name], device, out)]
        for name, folder in folders.items()
    }
