"""torch.compile, used only where it gives the same loss and gradient as without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from vqdiff.training.attempt import Attempt, attempt, summed
from vqdiff.training.state import RunState, TrainingBatch

T = TypeVar("T")

_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""Of the difference, relative to the loss or to the gradient of a parameter."""
_NEGLIGIBLE = 0.01
"""Share of the whole gradient's norm below which that of a parameter may be rounding only."""


class Compilation(Enum):
    """How a part of the objective is computed, the fastest first."""

    WIDEST = "compiled"
    NARROW = "compiled for vectors of 256 bits"  # Inductor has been wrong with AVX-512 and AMX
    NONE = "uncompiled"

    def apply(self, part: nn.Module) -> None:
        """Make ``part`` computed in this way; compilation happens at its next call."""
        if self is Compilation.NONE:
            part._compiled_call_impl = None  # what Module.compile sets; it cannot be undone otherwise
        else:
            part.compile(options={"cpp.simdlen": 256} if self is Compilation.NARROW else None)

    @staticmethod
    def on(device: torch.device) -> list[Compilation]:
        """The ways that differ on a kind of device."""
        return [way for way in Compilation if way is not Compilation.NARROW or device.type == "cpu"]


def choose_compilation(
    state: RunState, part: nn.Module, batches: Sequence[TrainingBatch], eager: Attempt
) -> Compilation:
    """Compile ``part`` in the fastest way whose loss and gradient on ``batches`` are those of ``eager``.

    Prints a line for each way in which they differ or cannot be computed. The state is not changed.
    """
    if eager.fault is not None:  # the diagnosis of the first step reports why
        state.accelerator.print(f"{eager.fault} is not finite: continuing {Compilation.NONE.value}", flush=True)
        return Compilation.NONE
    for way, narrower in pairwise(Compilation.on(state.accelerator.device)):
        way.apply(part)
        fault = _fault(state, batches, eager)
        if fault is None:
            return way
        state.accelerator.print(f"{way.value}, {fault}: continuing {narrower.value}", flush=True)
    Compilation.NONE.apply(part)
    return Compilation.NONE


def _fault(state: RunState, batches: Sequence[TrainingBatch], eager: Attempt) -> str | None:
    """Describe what is wrong with the loss and gradient as computed now; the same in all processes."""
    error = None
    if state.accelerator.num_processes > 1:  # separately first: no process must wait for one that failed
        _, error = _tried(state, lambda: _compute_apart(state, batches))
    found, error = _tried(state, lambda: attempt(state, batches, like=eager)) if error is None else (None, error)
    if found is None:
        return error
    if found.fault is not None:
        return f"{found.fault} is not finite, but is finite uncompiled"
    return _difference(state, found, eager)


def _compute_apart(state: RunState, batches: Sequence[TrainingBatch]) -> None:
    with state.undone():
        for _ in state.compute(batches, scaled=False, together=False):
            pass


def _tried(state: RunState, action: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return the result of ``action``, or why it failed in this or another process."""
    result, error = None, None
    try:
        result = action()
    except torch.OutOfMemoryError:
        raise
    except Exception as raised:  # none without compilation; Dynamo, Inductor and compilers raise many types
        cause = getattr(raised, "inner_exception", raised)  # Dynamo wraps what a compiler raised
        lines = str(cause).splitlines() or [""]
        line = next((line for line in lines if "error:" in line), lines[0])  # C++ compilers print much else
        error = f"the step fails ({type(cause).__name__}: {line[-160:]})"
    if summed(state, torch.tensor([float(error is not None)])).any():
        return None, error or "the step fails in another process"
    return result, None


def _difference(state: RunState, found: Attempt, eager: Attempt) -> str | None:
    """Describe the first gradient, or the loss, that differs by more than rounding."""
    tolerance = _TOLERANCE[state.precision]
    if abs(found.loss - eager.loss) > tolerance * abs(eager.loss):
        return f"the loss is {found.loss:.4g}, but {eager.loss:.4g} uncompiled"
    pairs = [(found.gradients[name], gradient) for name, gradient in eager.gradients.items()]
    # Every process has a part of a sharded parameter, so the squares are summed over all processes.
    squares = summed(state, torch.stack([torch.stack([_square(a - b), _square(b)]) for a, b in pairs]))
    differences, sizes = squares.sqrt().unbind(1)
    allowed = tolerance * sizes.clamp_min(_NEGLIGIBLE * float(squares[:, 1].sum().sqrt()))
    for name, difference, size, most in zip(eager.gradients, differences, sizes, allowed, strict=True):
        if difference > most:
            return f"the gradient of {name} differs by {float(difference / size):.0%} from the uncompiled one"
    return None


def _square(value: Tensor) -> Tensor:
    return value.double().square().sum()
