"""A device without float64, as Apple's GPUs are: its tensors are the CPU's, but torch believes they are elsewhere.

Like a real one it refuses tensors of float64, and operations on its tensors together with those of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = "privateuseone"
_ready = False


class There(Tensor):
    """A tensor on the device."""

    kept: Tensor

    @staticmethod
    def __new__(cls, kept: Tensor) -> There:
        if kept.dtype == torch.float64:
            raise TypeError("a tensor of float64 on a device that has no float64")
        made = Tensor._make_wrapper_subclass(
            cls,
            kept.size(),
            strides=kept.stride(),
            storage_offset=kept.storage_offset(),
            dtype=kept.dtype,
            device=torch.device(DEVICE, 0),
        )
        made.kept = kept
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Directs what is created on the device, or copied to it, there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        """On tensors of the device."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tree_flatten((args, kwargs))[0]
        self.operations += any(isinstance(one, There) for one in inputs)
        return _run(func, args, kwargs or {})


_ACROSS = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor}


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    inputs = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    there = [one for one in inputs if isinstance(one, There)]
    here = [one for one in inputs if not isinstance(one, There) and one.ndim > 0]
    if there and here and func not in _ACROSS:
        raise RuntimeError(f"{func}: tensors of two devices")
    target = kwargs.get("device")
    if target is not None and torch.device(target).type == DEVICE:
        kwargs, to_there = kwargs | {"device": torch.device("cpu")}, True
    else:
        to_there = bool(there) and target is None
    out = func(*tree_map(_kept, args), **tree_map(_kept, kwargs))
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not to_there:
        return out
    changed = {id(one.kept): one for one in there}  # in place

    def wrapped(one: Any) -> Any:
        return changed[id(one)] if id(one) in changed else There(one) if isinstance(one, Tensor) else one

    return tree_map(wrapped, out)


def _kept(one: Any) -> Any:
    return one.kept if isinstance(one, There) else one


@contextmanager
def device_without_float64() -> Iterator[Mode]:
    """A context in which the device DEVICE exists."""
    global _ready
    if not _ready:
        _setup_privateuseone_for_python_backend()
        _ready = True
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes them on the CPU first, which is seen
    try:
        with Mode() as mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
