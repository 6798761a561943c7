"""The training loop both stages share: optimiser, learning rate, EMA, log, previews, checkpoints, resume.

Batches and noise are functions of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vqdiff.errors import InputError
from vqdiff.files import atomic_path


@dataclass(frozen=True)
class RunConfig:
    """How long, how fast, how often; steps are optimiser steps."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.2
    """Share of ``steps`` at the end over which the learning rate falls to zero; before, it is constant."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.0
    """Decay of the weight average that is previewed and saved; 0 = the weights themselves."""
    bf16: bool = True
    seed: int = 0
    log_every: int = 50
    preview_every: int = 1000
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup", "log_every", "preview_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"run.{name} is {getattr(self, name)}: at least 1 is needed")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        to_end = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, to_end)


@runtime_checkable
class Task(Protocol):
    """What is trained: a model, its loss on the batch of a step, pictures to look at, and numbers on held-out data."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of the batch that belongs to ``step``, and metrics worth logging."""
        ...

    def evaluate(self, model: Any) -> dict[str, float]:
        """Held-out metrics of ``model`` (the average, if there is one)."""
        ...

    def preview(self, model: Any, path: Path) -> None:
        """Draw a sample grid into ``path``."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write the finished component."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the task itself must remember across a resume."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        ...


def train(make_task: Callable[[], Task], run: RunConfig, output: Path, *, resume: bool) -> None:
    """Train a task and write ``log.jsonl``, TensorBoard events, ``preview-*.png``, ``last.pt`` and the component.

    ``resume`` goes on from ``last.pt``; without it an ``output`` that already holds one is an InputError, and the task
    is not even made. Ctrl-C and SIGTERM end the step at hand, leave a checkpoint and raise KeyboardInterrupt. A loss
    that is not finite is an InputError that names the step; ``broken.pt`` holds the state before it.
    """
    from torch.utils.tensorboard import SummaryWriter

    checkpoint = output / "last.pt"
    if checkpoint.exists() and not resume:
        raise InputError(f"{output} already holds a run: pass --resume to go on with it, or choose another output")
    if resume and not checkpoint.exists():
        raise InputError(f"nothing to resume in {output}: there is no last.pt")
    task = make_task()
    output.mkdir(parents=True, exist_ok=True)

    model = task.model.train()
    average = copy.deepcopy(model) if run.ema else model
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=run.learning_rate,
        betas=run.betas,
        fused=True,
    )
    step, meters, counted = 0, dict[str, Tensor](), 0
    if resume:
        state = torch.load(checkpoint, weights_only=True)
        step = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        task.load_state_dict(state["task"])
        meters, counted = state["meters"], state["counted"]
        _forget_after(output / "log.jsonl", step)

    def save_checkpoint(file: Path) -> None:
        state = {
            "step": step,
            "meters": meters,
            "counted": counted,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "task": task.state_dict(),
        }
        with atomic_path(file) as path:
            torch.save(state, path)

    device = next(model.parameters()).device.type
    start, first = time.monotonic(), step
    with SummaryWriter(str(output)) as board, (output / "log.jsonl").open("a") as log, _asked_to_stop() as stopped:

        def record(values: dict[str, float]) -> None:
            log.write(json.dumps({"step": step, **values}) + "\n")
            log.flush()
            for name, value in values.items():
                board.add_scalar(name, value, step)

        while step < run.steps and not stopped:
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate_at(step)
            with torch.autocast(device, torch.bfloat16, enabled=run.bf16):
                loss, metrics = task.loss(step)
            if not bool(loss.isfinite()):
                save_checkpoint(output / "broken.pt")
                raise InputError(
                    f"the loss is {float(loss.detach())} at step {step}: lower run.learning_rate and go on from "
                    f"{checkpoint} with --resume; the state before that step is in {output / 'broken.pt'}"
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), run.clip)
            optimizer.step()
            step += 1
            if run.ema:
                _follow(average, model, min(run.ema, step / (step + 10)))
            counted += 1
            for name, value in {"loss": loss.detach(), **metrics}.items():
                meters[name] = meters.get(name, 0) + value
            if step % run.log_every == 0 or step == run.steps:
                values = {name: float(total) / counted for name, total in meters.items()}
                meters.clear()
                counted = 0
                rate = (step - first) / (time.monotonic() - start)
                speed = {"learning_rate": run.learning_rate_at(step - 1), "pictures_per_s": rate * run.batch_size}
                record(values | speed)
                print(_line(step, run.steps, values, rate, run.batch_size), flush=True)
            if step % run.preview_every == 0 or step == run.steps:
                average.eval()
                with torch.autocast(device, torch.bfloat16, enabled=run.bf16):
                    values = task.evaluate(average)
                    task.preview(average, output / f"preview-{step:07d}.png")
                model.train()
                record(values)
                print(f"step {step}  held out: {_numbers(values)}", flush=True)
            if step % run.checkpoint_every == 0 or step == run.steps or stopped:
                save_checkpoint(checkpoint)
    if stopped and step < run.steps:
        print(f"stopped at step {step}; go on with --resume", flush=True)
        raise KeyboardInterrupt
    task.save(average.eval(), output)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that Ctrl-C or SIGTERM makes non-empty; a second one interrupts at once."""
    asked = list[int]()

    def note(number: int, frame: object) -> None:
        del frame
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forget_after(log: Path, step: int) -> None:
    """Drop the records of steps that will be taken again."""
    kept = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
    with atomic_path(log) as path:
        path.write_text("".join(kept))


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
        ours.lerp_(theirs, 1 - decay)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def _line(step: int, steps: int, values: dict[str, float], rate: float, batch: int) -> str:
    left = int((steps - step) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    return f"step {step}/{steps}  {_numbers(values)}  {rate * batch:.1f} pictures/s  {clock} left"


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
