"""This package as a program to measure."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqdiff.bench import MeasuredPrecision
from vqdiff.bench.programs import (
    Memory,
    Repeat,
    Repeated,
    Stopwatch,
    TimedSteps,
    Watched,
    Workload,
    prompts,
    repeat,
)
from vqdiff.bench.workers import Turn
from vqdiff.model import BoundDenoiser, Job
from vqdiff.model.devices import pick_device
from vqdiff.pipeline import load
from vqdiff.sampling import Canvas, Frame, get_sampler, run

with suppress(ImportError):
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401  counts as a library, not as the program's memory


class VQDiff:
    """A model folder, loaded and used through this package's public names."""

    def __init__(self, source: str | Path, precision: MeasuredPrecision, device: str) -> None:
        self.memory = Memory(pick_device(device))
        self.pipe = load(source, device=device, precision=precision)
        model = self.model = self.pipe.model
        parts = [model.denoiser, model.image_tokenizer, model.text_encoder and model.text_encoder.model]
        self.memory.keep([part for part in [*parts, model.null_condition] if part is not None])
        self.watch = Stopwatch(model.device)
        watched: Any = Watched(model.denoiser, self.watch)
        model.denoiser = watched

    @torch.inference_mode()
    def log_probs(self, tokens: NDArray[np.int64], t: int) -> NDArray[np.float32]:
        """Log p(x0 | xt), ``(2B, L, K)``: under ∅, then under prompts."""
        x, size = torch.from_numpy(tokens).to(self.model.device), len(tokens)
        denoise = self.model.bind(self.model.encode(prompts(size)), self.model.null(size))
        logits = denoise(x.repeat(2, 1), torch.full((2 * size,), t, device=x.device))
        return logits.float().log_softmax(-1).roll(size, 0).cpu().numpy()

    @torch.inference_mode()
    def draw(self, task: Workload, turn: Turn) -> TimedSteps:
        """Take the steps of a task, one turn each."""
        self.memory.begin()
        self.watch.clear()
        start = time.perf_counter()
        job = Job(prompts(task.batch), range(task.batch), task.settings)
        denoise = self.model.bind(*job.encode(self.model))
        frames = run(job.start(self.model), denoise)
        setup = time.perf_counter() - start
        next(frames)  # to warm up
        for frames in self._before_steps(task, job, denoise):
            turn()
            self.watch.start()
            next(frames)
            self.watch.stop()
        return TimedSteps(setup, self.watch.laps, self.watch.network, self.memory.beyond())

    def decode(self, task: Repeat, turn: Turn) -> Repeated:
        """Decode random tokens to PIL images, one turn each time."""
        tokens = torch.randint(self.model.schedule.num_codes, (task.batch, self.model.num_tokens))
        tokens = tokens.to(self.model.device)
        return repeat(lambda: self.pipe.decode(tokens), task, turn, self.memory)

    def pictures(self, task: Repeat, turn: Turn) -> Repeated:
        """Generate images with the model's own settings, from the prompts to PIL images."""
        return repeat(lambda: self.pipe(prompts(task.batch)), task, turn, self.memory)

    def _before_steps(self, task: Workload, job: Job, denoise: BoundDenoiser) -> Iterator[Iterator[Frame]]:
        """Yield runs, each stopped before a step to be timed."""
        schedule = self.model.schedule
        if task.steps is None:
            yield from itertools.repeat(run(job.start(self.model), denoise), task.settings.steps)
            return
        x0 = torch.randint(schedule.num_codes, (task.batch, self.model.num_tokens))
        for step in range(task.steps):
            t = schedule.num_steps - int((step + 0.5) * schedule.num_steps / task.steps)
            sampler = get_sampler(task.settings.sampler)
            canvas = Canvas.noised(schedule, sampler, x0, job.seeds, start=[t] * task.batch)
            yield run(replace(job, canvas=canvas).start(self.model), denoise)


def first_picture(folder: Path, precision: MeasuredPrecision, device: str, output: Path) -> str:
    """A program that loads a model, generates one image in one step, and saves it."""
    options = {"device": device, "precision": precision}
    return (
        f"import vqdiff; pipe = vqdiff.load({str(folder)!r}, **{options!r}); "
        f"pipe({prompts(1)[0]!r}, sampler='strided', steps=1)[0].save({str(output)!r})"
    )
