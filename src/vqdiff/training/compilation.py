"""torch.compile, used only where it gives the loss and the gradient that the network gives without it."""

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
"""Of the difference, as a share of what the loss or the gradient of a parameter is."""
_NEGLIGIBLE = 0.01
"""Share of the whole gradient's norm below which that of a parameter may be mere rounding."""


class Compilation(Enum):
    """How a part of the objective is computed, the quickest first."""

    WIDEST = "compiled"
    NARROW = "compiled for vectors of 256 bits"  # AVX-512 and AMX are where Inductor has been wrong
    NONE = "uncompiled"

    def apply(self, part: nn.Module) -> None:
        """Let ``part`` be computed so; compiling happens when it is next called."""
        if self is Compilation.NONE:
            part._compiled_call_impl = None  # what Module.compile sets; it has no way back
        else:
            part.compile(options={"cpp.simdlen": 256} if self is Compilation.NARROW else None)

    @staticmethod
    def on(device: torch.device) -> list[Compilation]:
        """Those that differ on a kind of device."""
        return [way for way in Compilation if way is not Compilation.NARROW or device.type == "cpu"]


def choose_compilation(
    state: RunState, part: nn.Module, batches: Sequence[TrainingBatch], eager: Attempt
) -> Compilation:
    """Compile ``part``, in the widest way whose loss and gradient on ``batches`` are those of ``eager``.

    Prints a line for each way in which they differ or cannot be computed. The state stays as it is.
    """
    if eager.fault is not None:  # for whoever looks into the first step to say why
        state.accelerator.print(f"{eager.fault} is not finite: going on {Compilation.NONE.value}", flush=True)
        return Compilation.NONE
    for way, narrower in pairwise(Compilation.on(state.accelerator.device)):
        way.apply(part)
        fault = _fault(state, batches, eager)
        if fault is None:
            return way
        state.accelerator.print(f"{way.value}, {fault}: going on {narrower.value}", flush=True)
    Compilation.NONE.apply(part)
    return Compilation.NONE


def _fault(state: RunState, batches: Sequence[TrainingBatch], eager: Attempt) -> str | None:
    """What is wrong with the loss and gradient as computed now, the same in all processes."""
    error = None
    if state.accelerator.num_processes > 1:  # apart first: none must wait for the gradient of one that has failed
        _, error = _tried(state, lambda: _compute_apart(state, batches))
    found, error = _tried(state, lambda: attempt(state, batches, like=eager)) if error is None else (None, error)
    if found is None:
        return error
    if found.fault is not None:
        return f"{found.fault} is not finite, which it is uncompiled"
    return _difference(state, found, eager)


def _compute_apart(state: RunState, batches: Sequence[TrainingBatch]) -> None:
    with state.undone():
        for _ in state.compute(batches, scaled=False, together=False):
            pass


def _tried(state: RunState, action: Callable[[], T]) -> tuple[T | None, str | None]:
    """What ``action`` returns, or why it fails in this or another process."""
    result, error = None, None
    try:
        result = action()
    except torch.OutOfMemoryError:
        raise
    except Exception as raised:  # uncompiled there was none; Dynamo, Inductor and the compilers have many kinds
        cause = getattr(raised, "inner_exception", raised)  # Dynamo wraps what a compiler raised
        lines = str(cause).splitlines() or [""]
        line = next((line for line in lines if "error:" in line), lines[0])  # C++ compilers say much besides
        error = f"the step fails ({type(cause).__name__}: {line[-160:]})"
    if summed(state, torch.tensor([float(error is not None)])).any():
        return None, error or "the step fails in another process"
    return result, None


def _difference(state: RunState, found: Attempt, eager: Attempt) -> str | None:
    """The first gradient, or the loss, that differs by more than rounding does, in words."""
    tolerance = _TOLERANCE[state.precision]
    if abs(found.loss - eager.loss) > tolerance * abs(eager.loss):
        return f"the loss is {found.loss:.4g}, which is {eager.loss:.4g} uncompiled"
    pairs = [(found.gradients[name], gradient) for name, gradient in eager.gradients.items()]
    # Of a sharded parameter every process has its part, so the squares are summed over all of them.
    squares = summed(state, torch.stack([torch.stack([_square(a - b), _square(b)]) for a, b in pairs]))
    differences, sizes = squares.sqrt().unbind(1)
    allowed = tolerance * sizes.clamp_min(_NEGLIGIBLE * float(squares[:, 1].sum().sqrt()))
    for name, difference, size, most in zip(eager.gradients, differences, sizes, allowed, strict=True):
        if difference > most:
            return f"the gradient of {name} differs by {float(difference / size):.0%} from what it is uncompiled"
    return None


def _square(value: Tensor) -> Tensor:
    return value.double().square().sum()
