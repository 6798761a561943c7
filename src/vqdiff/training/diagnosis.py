"""Why a step is not finite: the data, the weights, or the gradient of some part, compiled or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate.utils import gather_object

from vqdiff.training.attempt import attempt
from vqdiff.training.compilation import Compilation
from vqdiff.training.state import RunState, TrainingBatch

_DOUBTFUL = "--resume, and if it happens again, suspect this device"


def diagnose(state: RunState, batches: Sequence[TrainingBatch], compilation: Compilation) -> str:
    """The cause, in one line with the remedy; the same in all processes, which must all call this.

    ``state`` is that before the step, and is not changed.
    """
    if (data := _broken_data(state, batches)) is not None:
        return f"{data}: repair the data"
    if (weights := state.broken_weights()) is not None:
        return f"{weights} itself is not finite: start from finite weights"
    with torch.compiler.set_stance("force_eager"):
        eager = attempt(state, batches)
    found = eager if compilation is Compilation.NONE else attempt(state, batches, like=eager)
    if found.fault is None:
        what = "everything" if eager.fault is None else f"{eager.fault}, though not uncompiled,"
        return f"computed once more, {what} is finite: {_DOUBTFUL}"
    if compilation is Compilation.NONE:
        return f"{found.fault} is not finite, {compilation.value}: lower run.learning_rate"
    if eager.fault is None:
        return f"{found.fault} is not finite {compilation.value}, but is uncompiled: set compile = false"
    return f"{eager.fault} is not finite, {compilation.value} or not: lower run.learning_rate"


def _broken_data(state: RunState, batches: Sequence[TrainingBatch]) -> str | None:
    """Name the tensors of the batch that are not finite in any process."""
    found = list[str]()
    for batch in batches:
        for name, value in batch.items():
            if value.is_floating_point() and not value.isfinite().all():
                rows = (~value.isfinite()).flatten(1).any(1).sum() if value.ndim > 1 else (~value.isfinite()).sum()
                found.append(f"{name!r} of the batch is not finite in {int(rows)} of {len(value)} rows")
    found = gather_object(found) if state.accelerator.num_processes > 1 else found
    return next(iter(found), None)
