"""What training changes: weights, their average, optimiser. Kept in one file that any number of processes can read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vqdiff.errors import InputError
from vqdiff.files import atomic_path

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class RunState:
    """The step, and everything that changes with it; the methods are for all processes together.

    Takes a task's objective, the part of it that is averaged, and their optimiser, and prepares them for the processes:
    ``objective`` is then what to call, and ``optimizer`` what to step.
    """

    def __init__(
        self,
        objective: nn.Module,
        model: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        accelerator: Accelerator,
        *,
        averaged: bool,
        shard: bool,
    ) -> None:
        self.step = 0
        self.accelerator = accelerator
        self._copy = copy.deepcopy(model) if accelerator.is_main_process else None  # a sharded one can't be copied
        self._objective, self._model = objective.train().to(accelerator.device), model
        if shard:
            _shard(objective, accelerator)
        self.objective = objective if shard else accelerator.prepare_model(objective)
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer(objective))
        self.average = {name: value.clone() for name, value in self._weights().items()} if averaged else None

    @contextmanager
    def gradients(self, *, together: bool) -> Iterator[None]:
        """Backward passes in here leave the sum over the processes if ``together``, else only what they add to it."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(together)
            yield
        else:
            with nullcontext() if together else self.accelerator.no_sync(self.objective):
                yield

    def clip(self, largest: float) -> bool:
        """Scale the gradient down to a norm of ``largest``; whether it is finite, or a scaler sees to that (fp16)."""
        size = self.accelerator.clip_grad_norm_(self._objective.parameters(), largest)
        return self.accelerator.scaler is not None or bool(_whole(size).isfinite())

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._model.state_dict().items()}

    def follow(self, decay: float) -> None:
        """Move the average towards the weights."""
        if self.average is None:
            return
        learnt = dict(self._model.named_parameters())
        for name, value in self._weights().items():
            if name in learnt:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def save(self, file: Path, meters: Mapping[str, Any]) -> None:
        """Write everything to ``file``; if the disk is full, InputError, and what was there stays."""
        weights, optimizer = get_state_dict(self._objective, self.optimizer.optimizer, options=_WHOLE)
        average = {name: _whole(value).cpu() for name, value in (self.average or {}).items()}
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = {"step": self.step, "weights": weights, "average": average, "optimizer": optimizer}
            state |= {"scaler": scaler.state_dict() if scaler is not None else {}, "meters": dict(meters)}
            try:
                with atomic_path(file) as path:
                    torch.save(state, path)
            except (OSError, RuntimeError) as error:  # torch says "no space" by either
                raise InputError(f"cannot write {file}: {error}; make room and --resume") from error
        self.accelerator.wait_for_everyone()

    def load(self, file: Path) -> dict[str, Any]:
        """Take back what :meth:`save` wrote, and return the meters; InputError if that was another kind of run."""
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
        try:
            set_state_dict(
                self._objective,
                self.optimizer.optimizer,
                model_state_dict=state["weights"],
                optim_state_dict=state["optimizer"],
                options=StateDictOptions(full_state_dict=True),
            )
            for name, value in (self.average or {}).items():
                value.copy_(_laid_out_as(value, state["average"][name]))
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{file} is of a run with another network, run.ema or run.precision: resume with the configuration it "
                f"began with, or name another output ({str(error).splitlines()[0][:120]})"
            ) from error
        self.step = state["step"]
        return state["meters"]

    @contextmanager
    def finished(self) -> Iterator[nn.Module | None]:
        """A model with the averaged weights, if there are any, in the main process; the others get None and wait."""
        weights = {name: _whole(value) for name, value in (self.average or self._weights()).items()}
        if self._copy is not None:
            self._copy.load_state_dict(weights)
            self._copy.to(self.accelerator.device).eval()
        yield self._copy
        self.accelerator.wait_for_everyone()


def _shard(objective: nn.Module, accelerator: Accelerator) -> None:
    """FSDP2: every layer of a stack by itself, and the rest together."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for stack in objective.modules():
        if isinstance(stack, nn.ModuleList):
            for layer in stack:
                fully_shard(layer, mesh=mesh)
                if hasattr(layer, "prepare"):  # uses the weights too
                    register_fsdp_forward_method(layer, "prepare")
    fully_shard(objective, mesh=mesh)


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _laid_out_as(like: Tensor, value: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
