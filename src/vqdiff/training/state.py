"""The state of training: weights, their average, optimiser; in one file that any number of processes can read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.image_tokenizers.quantizers import with_current_names

TrainingBatch = dict[str, Tensor]
Trained = TypeVar("Trained", bound=nn.Module)
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class RunState(Generic[Trained]):
    """The step, and everything that changes with it; all processes call the methods together.

    Takes a task's objective, the part of it that is averaged, and their optimiser, and prepares them for the processes:
    ``objective`` is then what to call, and ``optimizer`` what to step.
    """

    def __init__(
        self,
        objective: nn.Module,
        model: Trained,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        accelerator: Accelerator,
        *,
        averaged: bool,
        shard: bool,
    ) -> None:
        self.step = 0
        self.accelerator = accelerator
        self._copy = copy.deepcopy(model) if accelerator.is_main_process else None  # a sharded model cannot be copied
        self._objective, self._model = objective.train(), model
        if shard:
            _shard(objective, accelerator)
        self.objective = objective if shard else accelerator.prepare_model(objective.to(accelerator.device))
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer(objective))
        self.average = {name: value.clone() for name, value in self._weights().items()} if averaged else None

    @property
    def precision(self) -> str:
        """The precision of the matrix products: fp32, bf16 or fp16."""
        return {"no": "fp32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The trained parameters, with their names in the objective."""
        return [(name, value) for name, value in self._objective.named_parameters() if value.requires_grad]

    def broken_weights(self) -> str | None:
        """The first parameter with values that are not finite."""
        names, values = zip(*self.parameters(), strict=True)
        flags = torch.stack([(~_local(value).isfinite()).any() for value in values]).float()
        broken = self.accelerator.reduce(flags, "sum") if self.accelerator.num_processes > 1 else flags
        return next((name for name, flag in zip(names, cast("Tensor", broken).tolist(), strict=True) if flag), None)

    def compute(
        self, batches: Sequence[TrainingBatch], *, scaled: bool = True, together: bool = True
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Run forward and backward on the parts of a batch: loss and metrics of each, and the gradient of their mean.

        scaled: whether the gradient is that of the scaled loss (fp16), as the optimiser takes it.
        together: whether it is summed over the processes, which then wait for each other.
        """
        for number, batch in enumerate(batches, start=1):
            with self._gradients(together=together and number == len(batches)):
                with self.accelerator.autocast():
                    loss, metrics = self.objective(**batch)
                if scaled:
                    self.accelerator.backward(loss / len(batches))
                else:
                    (loss / len(batches)).backward()
            yield loss.detach(), metrics

    def bytes_to_come(self) -> int:
        """Bytes that the optimiser will allocate here at its first step: two moments of every parameter."""
        if self.optimizer.state:
            return 0
        return sum(2 * _local(value).nbytes for _, value in self.parameters())

    def buffers(self) -> list[Tensor]:
        """What a step may change besides the weights: all buffers of modules in training mode."""
        modules = [module for module in self._objective.modules() if module.training]
        return [buffer for module in modules for buffer in module.buffers(recurse=False)]

    def go_back(self, buffers: Sequence[Tensor]) -> None:
        """Drop the gradient, and restore the buffers from copies."""
        self._objective.zero_grad()
        for buffer, before in zip(self.buffers(), buffers, strict=True):
            buffer.copy_(before)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """A context whose computations leave no gradient and no changed buffer."""
        before = [buffer.clone() for buffer in self.buffers()]
        try:
            yield
        finally:
            self.go_back(before)

    @contextmanager
    def _gradients(self, *, together: bool) -> Iterator[None]:
        """A context whose backward passes give the sum over the processes if ``together``, else only their own part."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(together)
            yield
        else:
            with nullcontext() if together else self.accelerator.no_sync(self.objective):
                yield

    def clip(self, largest: float) -> bool:
        """Scale the gradient down to a norm of ``largest``; return whether it is finite or left to a scaler (fp16)."""
        size = self.accelerator.clip_grad_norm_(self._objective.parameters(), largest)
        return self.accelerator.scaler is not None or bool(_whole(size).isfinite())

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._model.state_dict().items()}

    def follow(self, decay: float) -> None:
        """Move the average towards the weights."""
        if self.average is None:
            return
        trained = dict(self._model.named_parameters())
        for name, value in self._weights().items():
            if name in trained:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def save(self, file: Path, meters: Mapping[str, Any]) -> None:
        """Write everything to ``file``; InputError if the disk is full, which leaves the former file in place."""
        weights, optimizer = get_state_dict(self._objective, self.optimizer.optimizer, options=_WHOLE)
        average = {name: _whole(value).cpu() for name, value in (self.average or {}).items()}
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = {"step": self.step, "weights": weights, "average": average, "optimizer": optimizer}
            state |= {"scaler": scaler.state_dict() if scaler is not None else {}, "meters": dict(meters)}
            try:
                with atomic_path(file) as path:
                    torch.save(state, path)
            except (OSError, RuntimeError) as error:  # torch reports a full disk by either
                raise InputError(f"cannot write {file}: {error}; make room and --resume") from error
        self.accelerator.wait_for_everyone()

    def load(self, file: Path) -> dict[str, Any]:
        """Restore what :meth:`save` wrote, and return the meters; InputError if that was another kind of run."""
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
        try:
            state |= {part: with_current_names(state[part]) for part in ("weights", "average")}
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
    def finished(self) -> Iterator[Trained | None]:
        """Yield a model with the averaged weights, if any, in the main process; the others get None and wait."""
        weights = {name: _whole(value) for name, value in (self.average or self._weights()).items()}
        if self._copy is not None:
            self._copy.load_state_dict(weights)
            self._copy.to(self.accelerator.device).eval()
        yield self._copy
        self.accelerator.wait_for_everyone()


def _shard(objective: nn.Module, accelerator: Accelerator) -> None:
    """Shard with FSDP2: every layer of a stack by itself, and the rest together.

    Layers go to the device one by one, and only the shard of each stays, so that the whole network is never there.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for stack in objective.modules():
        if isinstance(stack, nn.ModuleList):
            for layer in stack:
                fully_shard(layer, mesh=mesh)
                if hasattr(layer, "prepare"):  # it uses the weights too
                    register_fsdp_forward_method(layer, "prepare")
    fully_shard(objective, mesh=mesh)


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _laid_out_as(like: Tensor, value: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
