"""The training loop of all stages, on Accelerate: one process or many, DDP or FSDP2, interruptible and resumable.

A batch is a function of (seed, step), and every process takes its own rows of it. So a resumed run computes the same as
an uninterrupted one, and several processes the same as one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import clear_rooms
from vqdiff.foundation.processor import has_bf16_units
from vqdiff.model.devices import with_float64
from vqdiff.training.diagnosis import diagnose
from vqdiff.training.duration import Duration
from vqdiff.training.logger import RunLogger
from vqdiff.training.preflight import Preflight, check_sanity, preflight
from vqdiff.training.resuming import RunRecord, flat
from vqdiff.training.state import RunState, Trained, TrainingBatch
from vqdiff.training.validation import Criterion, Validation, draw_curve

_PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which reads and tokenizes the images."""

MixedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Tracker = Literal["wandb", "trackio"]


@dataclass(frozen=True)
class RunConfig:
    """Length, speed and intervals of a run; steps are optimiser steps."""

    steps: int
    """Optimiser steps of the whole run."""
    batch_size: int
    """Images per step, over all processes."""
    learning_rate: float
    """The largest, after warmup and before decay."""
    accumulation: int = 1
    """Parts into which a process divides its share of a batch, one after the other: less memory, the same result."""
    warmup: int = 200
    """Steps over which the learning rate rises from zero."""
    decay: float = 0.2
    """Share of ``steps`` at the end over which the learning rate falls to zero; before, it is constant."""
    weight_decay: float = 0.01
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    clip: float = 1.0
    """The largest norm of the gradient; a larger one is scaled down to it."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is previewed and saved; 0: the weights themselves."""
    precision: MixedPrecision = "auto"
    """Of the matrix products; weights and optimiser are fp32. ``auto`` is bf16 where that is faster, else fp32."""
    shard: bool = False
    """Shard weights, gradients and optimiser among the processes (FSDP2) instead of giving each a copy (DDP)."""
    seed: int = 0
    """Of the initial weights, the order of the images, and the noise."""
    log_every: int = 50
    """Steps between lines of the log."""
    preview_every: int = 1000
    """Steps between previews: sheets of images."""
    validate_every: int = 0
    """Steps between measurements on held-out images; 0: with every preview."""
    patience: int = 0
    """Stop after so many measurements in a row without a better score, and keep the best weights; 0: never stop."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which a run can be resumed."""
    trackers: tuple[Tracker, ...] = ()
    """Trackers in addition to ``log.jsonl`` and TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "warmup", "log_every", "preview_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"run.{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("validate_every", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"run.{name} is {getattr(self, name)}: it must be at least 0")

    @property
    def validation_interval(self) -> int:
        """Steps between measurements on held-out images."""
        return self.validate_every or self.preview_every

    def upkeep(self, step: int, evaluate: float, preview: float) -> float:
        """The cost of all held-out scores and previews after ``step``, given that of one of each."""
        last = (evaluate if self.steps % self.validation_interval else 0) + (
            preview if self.steps % self.preview_every else 0
        )
        times = [self.steps // every - step // every for every in (self.validation_interval, self.preview_every)]
        return times[0] * evaluate + times[1] * preview + last

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        to_end = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, to_end)

    def shares(self, process: int, processes: int) -> list[slice]:
        """The rows of every global batch that a process computes, part by part."""
        size, rest = divmod(self.batch_size, processes * self.accumulation)
        if rest:
            raise InputError(
                f"run.batch_size {self.batch_size} cannot be shared by {processes} processes with run.accumulation "
                f"{self.accumulation}: make it a multiple of {processes * self.accumulation}"
            )
        first = process * self.accumulation
        return [slice(part * size, (part + 1) * size) for part in range(first, first + self.accumulation)]


@runtime_checkable
class TrainingTask(Protocol[Trained]):
    """A training task: an objective around a model, its batches, previews, and held-out metrics."""

    @property
    def model(self) -> Trained:
        """The model that is averaged, previewed and saved; a part of the objective."""
        ...

    @property
    def objective(self) -> nn.Module:
        """Computes ``(**batch) -> (scalar loss, metrics to log)``, means over the batch.

        All of its parameters that require a gradient are trained.
        """
        ...

    @property
    def compiled(self) -> nn.Module | None:
        """The part of the objective to compile, if any, where compiling does not change the result."""
        ...

    @property
    def criterion(self) -> Criterion:
        """The held-out metric that tells which weights are best."""
        ...

    @property
    def legend(self) -> str:
        """What the metrics mean, in one line."""
        ...

    @property
    def data_fingerprint(self) -> str:
        """Identifies the training data, wherever they are stored."""
        ...

    @property
    def trained(self) -> bool:
        """Whether the model had been trained before."""
        ...

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Prefix of a parameter's name in the objective → factor on the learning rate."""
        ...

    def batch(self, step: int, share: slice) -> TrainingBatch:
        """The rows ``share`` of the batch of ``step``, on the CPU: a pure function."""
        ...

    def evaluate(self, model: Trained) -> dict[str, float]:
        """Held-out metrics of ``model`` (the average, if there is one)."""
        ...

    def preview(self, model: Trained, path: Path) -> None:
        """Write a sample grid to ``path``."""
        ...

    def upkeep(self, model: Trained) -> tuple[float, float]:
        """Seconds that `evaluate` and `preview` take, measured on a part of their work."""
        ...

    def save(self, model: Trained, folder: Path) -> None:
        """Write the finished component."""
        ...


def train(
    make_task: Callable[[], TrainingTask[Trained]],
    run: RunConfig,
    output: Path,
    *,
    resume: bool = False,
    sanity: bool = False,
    settings: Any = None,
    compile: bool | Literal["auto"] = True,
) -> None:
    """Train a task and write ``log.jsonl``, TensorBoard events, ``preview-*.png``, ``last.pt`` and the component.

    ``curve.png`` shows the training loss and the held-out score. With ``run.patience``, the run ends when the score no
    longer improves, and the best weights are saved.

    If started by ``accelerate launch`` or ``torchrun``, the processes share every batch.
    ``resume`` continues from ``last.pt``, also with another number of processes; without it, an ``output`` that already
    holds one is an InputError before the task is made. ``settings``, a dataclass with ``run`` in it, are stored in
    ``run.json``: what differs when the run is resumed is printed, or an InputError if it would be another run.

    Ctrl-C and SIGTERM finish the current step, write a checkpoint and raise KeyboardInterrupt. A loss or gradient that
    is not finite is an InputError that names the step and the cause; ``last.pt`` is left unchanged, and ``broken.pt``
    holds the state before that step.

    ``compile`` is whether to compile the task's part for it: "auto" only if that pays back.

    ``sanity`` writes nothing and only fits the first batch repeatedly; InputError if that cannot be learned.
    """
    began, checkpoint = time.monotonic(), output / "last.pt"
    if checkpoint.exists() and not resume and not sanity:
        raise InputError(f"{output} already holds a run: pass --resume to continue it, or choose another output")
    if resume and not checkpoint.exists():
        raise InputError(f"nothing to resume in {output}: there is no last.pt")
    settings = _RunAlone(run) if settings is None else settings
    record = RunRecord.read(output) if resume else None
    changes = [] if record is None else record.changes(settings)
    accelerator = make_accelerator(run, output)
    shares = run.shares(accelerator.process_index, accelerator.num_processes)
    with accelerator.main_process_first():  # the first one prepares files that the others use
        if accelerator.is_main_process and not sanity:
            clear_rooms(output)
        task = make_task()
    if record is not None:
        record.check_data(task.data_fingerprint, output)
    for change in changes:
        accelerator.print(f"changed: {change}", flush=True)
    if sanity:
        check_sanity(task.objective, task.batch(0, shares[0]), run.learning_rate, accelerator, trained=task.trained)
        return
    optimizer = partial(make_optimizer, run=run, factors=task.learning_rates)
    shard = run.shard and accelerator.num_processes > 1
    state = RunState(task.objective, task.model, optimizer, accelerator, averaged=run.ema > 0, shard=shard)
    meters = state.load(checkpoint) if resume else {}
    comparable = not any(change.remeasures for change in changes)
    validation = Validation(task.criterion, run.patience, meters.get("validation") if comparable else None)
    if validation.exhausted:
        accelerator.print(f"the run had stopped by itself at step {state.step}: raise run.patience to continue")
        _finish(task, state, validation, output)
        return
    worth = run.steps - state.step if compile == "auto" else None
    plan = preflight(state, task.compiled, task.batch(state.step, shares[0]), len(shares), worth)
    log = RunLogger(accelerator, output, run.steps, run.batch_size, flat(settings))
    with _stop_requests() as stopped, log as logger:
        if accelerator.is_main_process:
            RunRecord.of(settings, task.data_fingerprint).write(output)
        logger.begin(state.step, meters, plan)
        accelerator.print(_duration(task, state, run, plan, began), task.legend, sep="\n", flush=True)
        if not (drawing := find_spec("matplotlib") is not None):
            accelerator.print("curve.png is not drawn: that needs pip install 'vqdiff[eval]'", flush=True)
        for batches in _prefetched(task, range(state.step, run.steps), shares, accelerator.device):
            for group in state.optimizer.param_groups:
                group["lr"] = run.learning_rate_at(state.step) * group["factor"]
            finite, before = True, [buffer.clone() for buffer in state.buffers()]
            for loss, metrics in state.compute(batches):
                finite = finite and bool(loss.isfinite())
                logger.add({"loss": loss, **metrics}, 1 / len(batches))
            finite = state.clip(run.clip) and finite
            broken, stopping = _anywhere(accelerator, not finite, bool(stopped))
            if broken:
                state.go_back(before)
                found = diagnose(state, batches, plan.compilation)
                spoiled = output / "broken.pt"
                state.save(spoiled, {})
                then = f"continue from {checkpoint} with --resume" if checkpoint.exists() else "start again"
                raise InputError(
                    f"not finite at step {state.step}: {found}, and {then}; the state before that step is in {spoiled}"
                )
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.step += 1
            step, last = state.step, state.step == run.steps
            state.follow(min(run.ema, step / (step + 10)))
            if step % run.log_every == 0 or last:
                logger.write_means(step, run.learning_rate_at(step - 1))
            logger.progress(step)
            if step % run.validation_interval == 0 or last:
                with logger.paused("evaluating"), state.finished() as model, accelerator.autocast():
                    if model is not None:
                        scores = task.evaluate(model)
                        logger.write(step, scores)
                        validation.note(step, scores[task.criterion.name], model)
                        accelerator.print(f"step {step}  {validation}", flush=True)
                        if drawing:
                            draw_curve(output / "log.jsonl", output / "curve.png", task.criterion)
                last = last or _anywhere(accelerator, validation.exhausted)[0]
            if step % run.preview_every == 0 or last:
                with logger.paused("generating a preview"), state.finished() as model, accelerator.autocast():
                    if model is not None:
                        task.preview(model, output / f"preview-{step:07d}.png")
            if step % run.checkpoint_every == 0 or last or stopping:
                with logger.paused("saving"):
                    state.save(checkpoint, logger.meters() | {"validation": validation.state()})
            if stopping and not last:
                accelerator.print(f"stopped at step {step}; continue with --resume", flush=True)
                raise KeyboardInterrupt
            if last:
                break
    _finish(task, state, validation, output)


def _finish(task: TrainingTask[Trained], state: RunState[Trained], validation: Validation, output: Path) -> None:
    """Save the finished component: the best weights, or else the last."""
    if validation.patience:
        state.accelerator.print(
            f"finished at step {state.step}, with the weights of step {validation.step}", flush=True
        )
    with state.finished() as model:
        if model is not None:
            validation.restore(model)
            task.save(model, output)


def _duration(
    task: TrainingTask[Trained], state: RunState[Trained], run: RunConfig, plan: Preflight, began: float
) -> Duration:
    """How long the whole run takes, or what is left of it; in the main process."""
    prepared, once = time.monotonic() - began, (0.0, 0.0)
    with state.finished() as model, state.accelerator.autocast():
        if model is not None:
            once = task.upkeep(model)
    return Duration(prepared, plan.seconds * (run.steps - state.step), run.upkeep(state.step, *once))


@dataclass(frozen=True)
class _RunAlone:
    run: RunConfig


def make_accelerator(run: RunConfig, output: Path) -> Accelerator:
    """Set up the processes, precision and trackers of a run; InputError for what is not available here."""
    if missing := set(run.trackers) - {str(tracker) for tracker in get_available_trackers()}:
        raise InputError(f"run.trackers: {min(missing)} is not installed: pip install {min(missing)}")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device, precision = with_float64(found or torch.device("cpu")), run.precision
    if precision == "auto":
        precision = "bf16" if has_bf16_units(device) else "fp32"
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    try:
        return Accelerator(
            cpu=device.type == "cpu",  # without accelerators, processes are joined only with this option
            mixed_precision="no" if precision == "fp32" else precision,
            log_with=["tensorboard", *run.trackers],
            project_dir=output.parent,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
    except ValueError as error:
        raise InputError(f"run.precision {run.precision} does not work here: {error}") from error


def make_optimizer(objective: nn.Module, run: RunConfig, factors: Mapping[str, float]) -> torch.optim.AdamW:
    """Make AdamW, with weight decay for matrices only; ``factors`` as in :attr:`TrainingTask.learning_rates`."""
    groups = dict[tuple[float, float], list[nn.Parameter]]()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            factor = next((factor for start, factor in factors.items() if name.startswith(start)), 1.0)
            decay = run.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((decay, factor), []).append(parameter)
    sets = [{"params": each, "weight_decay": decay, "factor": factor} for (decay, factor), each in groups.items()]
    return torch.optim.AdamW(sets, lr=run.learning_rate, betas=run.betas, fused=True)


def _prefetched(
    task: TrainingTask, steps: Sequence[int], shares: Sequence[slice], device: torch.device
) -> Iterator[list[TrainingBatch]]:
    """Yield the batches of every step, made one step ahead by a thread."""

    def make(step: int) -> list[TrainingBatch]:
        return [task.batch(step, share) for share in shares]

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            assert ahead is not None
            batches, ahead = ahead.result(), thread.submit(make, step + 1) if step + 1 in steps else None
            yield [{name: value.to(device, non_blocking=True) for name, value in batch.items()} for batch in batches]


def _anywhere(accelerator: Accelerator, *flags: bool) -> Sequence[bool]:
    """Whether each flag is set in any process."""
    if accelerator.num_processes == 1:
        return flags
    counts = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return [count > 0 for count in cast("Tensor", accelerator.reduce(counts, "sum")).tolist()]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yield a list that Ctrl-C or SIGTERM makes non-empty; a second Ctrl-C interrupts at once."""
    received = list[int]()

    def note(number: int, frame: object) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread handles signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
