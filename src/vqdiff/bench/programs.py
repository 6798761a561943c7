"""The work that two programs are measured on, and their results."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vqdiff.bench import Dtype, MeasuredPrecision
from vqdiff.bench.workers import Turn
from vqdiff.denoisers.layers import Packed
from vqdiff.foundation.profiling import now, peak_memory, reset_peak_memory
from vqdiff.interfaces import Network
from vqdiff.sampling import SamplingSettings

P = ParamSpec("P")
T = TypeVar("T")

VQDIFF, DIFFUSERS = "vqdiff", "diffusers"


@dataclass(frozen=True)
class Kind:
    """What a precision of our network stands for.

    dtype: of the weights on disk, of the matrix products whose peak is measured, and by default of the program compared
    with ours. rounding: how far the predictions of two programs may differ, in the root mean square and as a share of
    the spread.
    """

    dtype: Dtype
    rounding: float


PRECISIONS: dict[MeasuredPrecision, Kind] = {
    "float32": Kind("float32", 1e-3),
    "bfloat16": Kind("bfloat16", 0.05),
    "int8": Kind("bfloat16", 0.1),
}


def prompts(count: int) -> list[str]:
    """Return `count` different prompts."""
    return [f"a painting of {number + 1} foxes in the snow" for number in range(count)]


@dataclass(frozen=True)
class Workload:
    """Images to generate, or a few of their steps.

    steps: how many to time, spread evenly over the T steps of the sampler "ancestral"; None for all steps of whole
    images.
    """

    batch: int
    settings: SamplingSettings
    steps: int | None

    @property
    def turns(self) -> int:
        """The number of turns, one per step."""
        return self.steps or self.settings.steps


@dataclass(frozen=True)
class TimedSteps:
    """The time of a `Workload`, in seconds; ``steps`` and ``network``, inside the denoiser, have one entry per step."""

    setup: float
    """From prompts to the first step: the text encoder, and what is prepared once per image."""
    steps: list[float]
    network: list[float]
    memory: int
    """Peak memory in bytes, beyond the libraries and the weights."""


@dataclass(frozen=True)
class Repeat:
    """Work to repeat a few times on a batch of images."""

    batch: int
    times: int = 3


@dataclass(frozen=True)
class Repeated:
    """The cost of a `Repeat`: seconds of each time, and peak memory in bytes beyond that before."""

    seconds: list[float]
    memory: int


class Stopwatch:
    """Measures the seconds of laps, and how many of them were spent inside the network: in functions made by `timed`.

    On CUDA these are measured by events, so that the host can still run ahead.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps = list[float]()
        self.network = list[float]()
        self._depth, self._start = 0, 0.0
        self._marks = list[Any]()

    def clear(self) -> None:
        """Delete all laps."""
        self.laps, self.network = [], []

    def start(self) -> None:
        """Start a lap."""
        self._marks.clear()
        self._start = now(self.device)

    def stop(self) -> None:
        """End the lap, and store it."""
        self.laps.append(now(self.device) - self._start)
        times = zip(self._marks[::2], self._marks[1::2], strict=True)
        cuda = self.device.type == "cuda"
        self.network.append(sum(a.elapsed_time(b) / 1000 if cuda else b - a for a, b in times))

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        """Wrap a function so that its time counts as the network's; nested calls count once."""

        def call(*arguments: P.args, **options: P.kwargs) -> T:
            with self._inside():
                return function(*arguments, **options)

        return call

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self._depth == 0:
            self._mark()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._mark()

    def _mark(self) -> None:
        if self.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)


class Watched:
    """Wraps a network and times its calls and those of its methods and parts."""

    def __init__(self, network: Callable[..., object], watch: Stopwatch) -> None:
        self.network, self._watch = network, watch

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._watch.timed(self.network)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.network, name)
        if isinstance(value, nn.Module):
            return Watched(value, self._watch)
        own = inspect.ismethod(value) and not hasattr(nn.Module, name)
        return self._watch.timed(value) if own else value


class Memory:
    """Measures memory beyond that before a program was loaded and beyond what the program keeps on purpose."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.kept = device, 0
        reset_peak_memory(device)
        self._before = peak_memory(device)

    def keep(self, modules: Sequence[Network], copies: int = 1) -> None:
        """Do not count the parameters and buffers of ``modules``; those still in a file are read first.

        copies: 4 for training with Adam, with a gradient and two moments for each.
        """
        for tensor in _tensors(modules):
            tensor.detach().sum()
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(modules)}
        packed = (part.weight for module in modules for part in module.modules() if isinstance(part, Packed))
        self.kept = copies * (sum(sizes.values()) + sum(each.numel() * each.element_size() for each in packed))

    def begin(self) -> None:
        """Reset the peak."""
        reset_peak_memory(self.device)

    def beyond(self) -> int:
        """Peak memory in bytes, without what is not counted."""
        return peak_memory(self.device) - self._before - self.kept


def repeat(work: Callable[[], object], task: Repeat, turn: Turn, memory: Memory) -> Repeated:
    """Do the work a few times, one turn each, after a first time to warm up."""
    memory.begin()
    seconds = list[float]()
    work()
    for _ in range(task.times):
        turn()
        start = now(memory.device)
        work()
        seconds.append(now(memory.device) - start)
    return Repeated(seconds, memory.beyond())


def _tensors(modules: Iterable[Network]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()
