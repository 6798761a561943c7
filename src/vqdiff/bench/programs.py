"""What two programs are asked to do, and what they tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vqdiff.bench.workers import Turn
from vqdiff.measuring import now, peak_memory, reset_peak_memory
from vqdiff.sampling import SamplingSettings

PROMPT = "a painting of a fox in the snow"
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Task:
    """Pictures to draw, or a few steps of them.

    steps: how many to time, spread evenly over the T of the sampler "ancestral"; None for all the steps of whole
    pictures.
    """

    batch: int
    settings: SamplingSettings
    steps: int | None

    @property
    def turns(self) -> int:
        """One a step."""
        return self.steps or self.settings.steps


@dataclass(frozen=True)
class Drawn:
    """What a `Task` took, in seconds; one entry a step in ``steps`` and ``network``, its share inside the denoiser."""

    setup: float
    """From prompts to the first step: the text, and what is prepared once a picture."""
    steps: list[float]
    network: list[float]
    memory: int
    """Bytes at the peak, beyond the libraries and the weights."""


@dataclass(frozen=True)
class Decode:
    """Random tokens to be made PIL images, a few times."""

    batch: int
    times: int = 3


@dataclass(frozen=True)
class Decoded:
    """What a `Decode` took: seconds of each time, and bytes as in `Drawn`."""

    seconds: list[float]
    memory: int


class Stopwatch:
    """Seconds of laps, and how many of them were spent in calls of ``networks``.

    On CUDA these are measured by events, so that the host runs ahead as it would without.
    """

    def __init__(self, device: torch.device, networks: Iterable[nn.Module]) -> None:
        self.device = device
        self.laps = list[float]()
        self.network = list[float]()
        self._depth, self._start = 0, 0.0
        self._marks = list[Any]()
        for network in networks:
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave, always_call=True)

    def clear(self) -> None:
        """Forget all laps."""
        self.laps, self.network = [], []

    def start(self) -> None:
        """Begin a lap."""
        self._marks.clear()
        self._start = now(self.device)

    def stop(self) -> float:
        """End the lap, and keep it; returns its seconds."""
        self.laps.append(now(self.device) - self._start)
        times = zip(self._marks[::2], self._marks[1::2], strict=True)
        cuda = self.device.type == "cuda"
        self.network.append(sum(a.elapsed_time(b) / 1000 if cuda else b - a for a, b in times))
        return self.laps[-1]

    def _enter(self, *_: object) -> None:
        if self._depth == 0:
            self._mark()
        self._depth += 1

    def _leave(self, *_: object) -> None:
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


class Memory:
    """Memory beyond what was there before a program was loaded, and beyond what it then keeps on purpose."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.kept = device, 0
        reset_peak_memory(device)
        self._before = peak_memory(device)

    def keep(self, modules: Sequence[nn.Module]) -> None:
        """Do not count the parameters and buffers of ``modules``; those that are in a file still are read from it."""
        for tensor in _tensors(modules):
            tensor.sum()
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(modules)}
        self.kept = sum(sizes.values())

    def begin(self) -> None:
        """Let the peak begin anew."""
        reset_peak_memory(self.device)

    def beyond(self) -> int:
        """Bytes at the peak beyond what is not counted."""
        return peak_memory(self.device) - self._before - self.kept


def repeat(work: Callable[[], object], task: Decode, turn: Turn, memory: Memory) -> Decoded:
    """Do the work a few times, a turn each, after once to warm up."""
    memory.begin()
    seconds = list[float]()
    work()
    for _ in range(task.times):
        turn()
        start = now(memory.device)
        work()
        seconds.append(now(memory.device) - start)
    return Decoded(seconds, memory.beyond())


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()
