"""The cost of training on a set here, before there is a run: the recipe for its size, tried on a few of its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from vqdiff.foundation.config import read_config
from vqdiff.foundation.processor import bf16_where_faster
from vqdiff.recipes.training import path_of
from vqdiff.training.denoiser_settings import DiffusionTraining
from vqdiff.training.diffusion import DiffusionTask
from vqdiff.training.duration import Duration

_FEW = 16


def measure_cost(
    recipe: str,
    data: str | Path,
    images: tuple[int, int],
    captions: Iterable[str],
    condition: Literal["text", "class", "none"],
    device: torch.device,
) -> Duration:
    """Estimate how long the whole run of a recipe for a denoiser takes on ``device``; this takes some seconds.

    images: how many there are to train on and to measure on. captions: all that differ. Compiling is not counted.
    Nothing is written.

    Raises InputError for what would stop a run.
    """
    config = read_config(DiffusionTraining, path_of("diffusion", recipe))
    if condition != "text":
        config = replace(config, condition=condition, text_encoder=None)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        config, start = replace(config, data=data, output=Path(folder)), time.monotonic()
        task = DiffusionTask(config, limit=_FEW, device=device)
        preparing = time.monotonic() - start
        preparing += sum(images) * _tokenizing(task) + _encoding(task, sorted(captions))
        batch = {name: value.to(device) for name, value in task.batch(0, slice(None)).items()}
        task.objective.to(device).train()

        def step() -> None:
            with bf16_where_faster(device):
                loss, _ = task.objective(**batch)
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        seconds = min(_timed(step) for _ in range(3))
        task.objective.eval()
        with bf16_where_faster(device):
            evaluating, preview = task.upkeep(task.model)
    evaluating *= task.measurements(images[1]) / task.measurements(len(task.test_set))
    steps = config.run.steps
    return Duration(preparing, steps * seconds, config.run.upkeep(0, evaluating, preview))


def _tokenizing(task: DiffusionTask) -> float:
    """Seconds per image, in all its views."""
    tokenizer, views = task.parts.image_tokenizer, task.config.views
    size = tokenizer.config.image_size
    pixels = torch.rand(_FEW, 3, size, size, device=task.device)
    with torch.no_grad():
        return min(_timed(partial(tokenizer.encode, pixels)) for _ in range(2)) / _FEW * len(views)


def _encoding(task: DiffusionTask, captions: list[str]) -> float:
    """Seconds for all captions."""
    if (encoder := task.parts.text_encoder) is None:
        return 0.0
    some = [encoder.fit(text) for text in captions[:: -(-len(captions) // _FEW)]]
    with bf16_where_faster(task.device):
        return min(_timed(partial(encoder.encode, some)) for _ in range(2)) / len(some) * len(captions)


def _timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
