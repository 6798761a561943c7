"""A report in progress: the work around the measurements of every benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vqdiff.bench import MeasuredPrecision
from vqdiff.bench.machine import describe_machine
from vqdiff.bench.programs import PRECISIONS
from vqdiff.bench.report import Report, check_like
from vqdiff.bench.workers import Worker
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.profiling import matmul_peak
from vqdiff.model.devices import auto_precision, pick_device

Say = Callable[[str], None]
_MIB = 2**20
_SIDES = (None, 2048)
"""Sizes of the matrices whose fastest product gives the peak."""


class Session:
    """Programs, each in a precision, on one device; the peak of its matrix products is measured first."""

    def __init__(
        self, title: str, programs: Mapping[str, MeasuredPrecision], device: torch.device, command: str, say: Say
    ) -> None:
        self.programs, self.device, self.say = programs, device, say
        labels = [f"{name} {precision}" for name, precision in programs.items()]
        self.report = Report(", ".join([title, *labels, device.type]), command, labels, describe_machine(device))
        self.peaks = self._measure_peaks()
        """The peak of matrix products alone, in flop/s, by program."""

    @contextmanager
    def workers(self, makers: Mapping[str, tuple[Any, ...]]) -> Iterator[list[Worker]]:
        """Start the programs, each made by a function with arguments, in processes that end with the block."""
        with ExitStack() as stack:
            yield [stack.enter_context(Worker(name, *maker)) for name, maker in makers.items()]

    def check(self, results: list[Any], what: str) -> None:
        """Raise InputError if two programs do not compute the same; a single one is not checked."""
        if len(results) < 2:
            return
        tolerance = max(PRECISIONS[precision].rounding for precision in self.programs.values())
        ours, theirs = results
        line = check_like(ours, theirs, tolerance, what)
        self.say(line)
        self.report.notes.append(f"Checked before: {line}.")

    def add_memory(self, work: str, quantity: str, *bytes_: int) -> None:
        """Add the peak memory of each program in MiB."""
        self.report.add(work, f"{quantity}, MiB", *([each / _MIB] for each in bytes_), better=less)

    def _measure_peaks(self) -> dict[str, float]:
        dtypes = {name: PRECISIONS[precision].dtype for name, precision in self.programs.items()}
        peaks = {
            dtype: max(matmul_peak(self.device, getattr(torch, dtype), size) for size in _SIDES)
            for dtype in dict.fromkeys(dtypes.values())
        }
        for dtype, peak in peaks.items():
            self.report.notes.append(f"Matrix products alone, {dtype}: {peak / 1e9:.4g} GFLOP/s.")
        return {name: peaks[dtype] for name, dtype in dtypes.items()}


def check_counts(**options: int | tuple[int, ...] | None) -> None:
    """Raise InputError for a number below 1."""
    for name, value in options.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if wrong := [number for number in numbers if number is not None and number < 1]:
            raise InputError(f"--{name} is {wrong[0]}: it must be at least 1")


def precision_for(wanted: MeasuredPrecision | None, device: str) -> MeasuredPrecision:
    """Return the given precision, or the one that fits the device."""
    return wanted or auto_precision(pick_device(device))


def less(ours: float, theirs: float) -> float:
    """How many times better ours is if less is better; infinite if ours is 0."""
    return theirs / ours if ours > 0 else float("inf")


def more(ours: float, theirs: float) -> float:
    """How many times better ours is if more is better."""
    return ours / theirs


def pictures(count: int) -> str:
    """Format a number of images."""
    return "1 image" if count == 1 else f"{count} images"
