"""Before a run: what a step will cost here, and whether the objective can learn at all."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vqdiff.errors import InputError
from vqdiff.measuring import count_flops, matmul_peak, now, peak_memory


@dataclass(frozen=True)
class Rehearsal:
    """Measured on one part of a batch, without torch.compile."""

    parameters: int
    """That are trained."""
    flops: float
    """Of the matrix products and convolutions for a picture, forth and back."""
    seconds: float
    """A step."""
    memory: int
    """Bytes at the peak, weights, optimiser and average included."""
    peak: float
    """Matrix products alone, flop/s of this device in the run's precision."""

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.3g} M parameters to train, {self.flops / 1e9:.3g} GFLOP a picture, "
            f"{self.memory / 2**30:.2g} GiB of memory, {self.seconds:.3g} s a step"
        )


def rehearse(objective: nn.Module, batch: dict[str, Tensor], parts: int, accelerator: Accelerator) -> Rehearsal:
    """Compute a part of a batch with a copy of the objective, twice: to count, then to time.

    Raises InputError if it does not fit into the device's memory.
    """
    device = accelerator.device
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    copied = copy.deepcopy(objective).to(device).train()
    batch = {name: value.to(device) for name, value in batch.items()}

    def part() -> None:
        with accelerator.autocast():
            loss, _ = copied(**batch)
        loss.backward()
        copied.zero_grad()

    try:
        flops = count_flops(part)
        start = now(device)
        part()
        seconds = now(device) - start
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{_rows(batch)} pictures at once do not fit into the memory of {device}: lower run.batch_size, or raise "
            "run.accumulation, which gives the same result"
        ) from error
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    return Rehearsal(
        trained,
        flops / _rows(batch),
        seconds * parts,
        peak_memory(device) + 3 * 4 * trained,
        matmul_peak(device, dtype),
    )


def check_sanity(
    objective: nn.Module,
    batch: dict[str, Tensor],
    learning_rate: float,
    accelerator: Accelerator,
    *,
    trained: bool,
    steps: int = 200,
) -> None:
    """Fit one batch ``steps`` times; InputError if its loss does not even halve, or that of a trained model rises."""
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
