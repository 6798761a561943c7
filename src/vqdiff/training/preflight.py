"""Checks before a run: the cost of a step here, and whether the objective can learn at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.profiling import count_flops, matmul_peak, now, peak_memory, reset_peak_memory
from vqdiff.foundation.progress import still
from vqdiff.training.attempt import Attempt, attempt, summed
from vqdiff.training.compilation import Compilation, choose_compilation
from vqdiff.training.state import RunState, TrainingBatch

_COMPILING = 100
"""Seconds that compiling the denoiser takes."""
_SAVED = 0.1
"""Share of the time of a step that it saves at least; measured on a CPU, with one layer of the default width."""


@dataclass(frozen=True)
class Preflight:
    """The cost of a step, measured on one part of a batch."""

    parameters: int
    """Number of trained parameters."""
    flops: float
    """Operations of the matrix products and convolutions per image, forward and backward."""
    seconds: float
    """Per step."""
    memory: int
    """Peak memory of this process in bytes, including weights, optimiser and average."""
    peak: float
    """Speed of matrix products alone, in flop/s of this device in the run's precision."""
    compilation: Compilation

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.3g} M parameters to train, {self.flops / 1e9:.3g} GFLOP per image, "
            f"{self.memory / 2**30:.2g} GiB of memory, {self.seconds:.3g} s per step"
        )


def preflight(
    state: RunState,
    compiled: nn.Module | None,
    batch: TrainingBatch,
    parts: int,
    steps: int | None = None,
) -> Preflight:
    """Compute one of the ``parts`` of a batch to count, compare and time it; ``state`` is not changed.

    ``compiled``, a part of the objective, is compiled if that does not change its loss and gradient (see
    :func:`choose_compilation`), and if it is worth it for so many ``steps`` (None: in any case).

    Raises InputError if it does not fit into the device's memory.
    """
    device = state.accelerator.device
    batches = [{name: value.to(device) for name, value in batch.items()}]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(state.precision, torch.float32)
    try:
        if compiled is None:
            compilation, flops = Compilation.NONE, count_flops(lambda: _compute(state, batches))
        else:
            compilation, flops = _compile(state, compiled, batches, None if steps is None else steps * parts)
        reset_peak_memory(device)
        seconds = _seconds(state, batches)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{_rows(batch)} images at once do not fit into the memory of {device}: lower run.batch_size, or raise "
            "run.accumulation, which gives the same result"
        ) from error
    memory = peak_memory(device) + state.bytes_to_come()
    trained = sum(value.numel() for _, value in state.parameters())
    return Preflight(trained, flops / _rows(batch), seconds * parts, memory, matmul_peak(device, dtype), compilation)


def _compile(
    state: RunState, part: nn.Module, batches: Sequence[TrainingBatch], times: int | None
) -> tuple[Compilation, int]:
    """Compile as far as that does not change the result, and pays back; flops are counted without it."""
    eager = list[Attempt]()
    flops = count_flops(lambda: eager.append(attempt(state, batches)))
    if times is not None:
        seconds = float(summed(state, torch.tensor(_seconds(state, batches)))) / state.accelerator.num_processes
        if seconds * times * _SAVED < _COMPILING:
            state.accelerator.print(
                f"not compiled, as all steps take about {seconds * times:.0f} s without it, and compiling alone "
                f"{_COMPILING} s (compile = true compiles anyway)",
                flush=True,
            )
            return Compilation.NONE, flops

    def say(line: str) -> None:
        state.accelerator.print(line, flush=True)

    say("compiling, usually 1–2 minutes …")
    start = time.monotonic()
    with still("compiling", say):
        found = choose_compilation(state, part, batches, eager[0])
    say(f"{found.value} after {time.monotonic() - start:.0f} s (not included in the estimates below)")
    return found, flops


def _seconds(state: RunState, batches: Sequence[TrainingBatch]) -> float:
    start = now(state.accelerator.device)
    _compute(state, batches)
    return now(state.accelerator.device) - start


def _compute(state: RunState, batches: Sequence[TrainingBatch]) -> None:
    with state.undone():
        for _ in state.compute(batches, scaled=False):
            pass


def check_sanity(
    objective: nn.Module,
    batch: dict[str, Tensor],
    learning_rate: float,
    accelerator: Accelerator,
    *,
    trained: bool,
    steps: int = 200,
) -> None:
    """Fit one batch ``steps`` times; InputError if its loss is not halved, or if that of a trained model rises."""
    objective = objective.to(accelerator.device).train()
    batch = {name: value.to(accelerator.device) for name, value in batch.items()}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], learning_rate)
    losses = list[float]()
    for step in range(steps + 1):
        with accelerator.autocast():
            loss, _ = objective(**batch)
        losses.append(float(loss.detach()))
        if step % (steps // 10) == 0:
            print(f"one batch, step {step}: loss {losses[-1]:.4g}", flush=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not losses[-1] <= losses[0] * (1 if trained else 0.5):
        raise InputError(
            f"the loss of a single batch only went from {losses[0]:.4g} to {losses[-1]:.4g} in {steps} steps: a run "
            "would not learn either; lower or raise run.learning_rate, and look at the data"
        )


def _rows(batch: dict[str, Tensor]) -> int:
    return max(len(value) for value in batch.values() if value.ndim)
