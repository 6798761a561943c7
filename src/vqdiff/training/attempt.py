"""A training step that is computed but not taken: its loss and gradient, to compare and to inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vqdiff.training.state import RunState, TrainingBatch


@dataclass(frozen=True)
class Attempt:
    """The result of a step that was not taken; the same in all processes, except for sharded gradients."""

    loss: float
    """The mean over all parts of the batch."""
    gradients: Mapping[str, Tensor]
    """Parameter → its gradient, or this process' shard of it, on the CPU; in the order of the backward pass."""
    fault: str | None
    """What is not finite, in words: the loss, or the first such gradient of the backward pass."""


def attempt(state: RunState, batches: Sequence[TrainingBatch], like: Attempt | None = None) -> Attempt:
    """Compute the step of ``batches`` and leave ``state`` unchanged, without gradients.

    like: an attempt whose order of gradients to use, as compiled code does not show an order.
    """
    trained = dict(state.parameters())
    order = list[str]()
    hooks = [
        value.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        for name, value in (trained.items() if like is None else ())
    ]
    try:
        with state.undone():
            losses = [loss for loss, _ in state.compute(batches, scaled=False)]
            gradients = {name: _mine(value) for name, value in trained.items()}
    finally:
        for hook in hooks:
            hook.remove()
    # FSDP does not call the hooks: use the order of the network there.
    names = list(like.gradients) if like is not None else list(dict.fromkeys([*order, *reversed(list(trained))]))
    gradients = {name: gradients[name] for name in names}
    loss = float(summed(state, torch.stack(losses).mean().detach().cpu())) / state.accelerator.num_processes
    return Attempt(loss, gradients, _fault(state, torch.tensor(loss), gradients))


def summed(state: RunState, values: Tensor) -> Tensor:
    """The sum of a small tensor over all processes, on the CPU."""
    if state.accelerator.num_processes == 1:
        return values
    return cast("Tensor", state.accelerator.reduce(values.float().to(state.accelerator.device), "sum")).cpu()


def _fault(state: RunState, loss: Tensor, gradients: Mapping[str, Tensor]) -> str | None:
    if not loss.isfinite():
        return "the loss"
    flags = torch.tensor([float(not value.isfinite().all()) for value in gradients.values()])
    broken = [name for name, flag in zip(gradients, summed(state, flags), strict=True) if flag]
    if not broken:
        return None
    others = f" (and of {len(broken) - 1} of {len(gradients)} parts that depend on it)" if len(broken) > 1 else ""
    return f"the gradient of {broken[0]}{others}"


def _mine(parameter: Tensor) -> Tensor:
    """Copy a parameter's gradient, zeros if it has none, to the CPU."""
    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return local.detach().to("cpu", copy=True)
