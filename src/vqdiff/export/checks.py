"""Comparing a written graph with the network it came from, number by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vqdiff.export.formats import Batch
from vqdiff.export.storage import Storage

Compute = Callable[[tuple[Tensor, ...]], Tensor]

TOLERANCE = 1e-3
"""Of the largest absolute error, in units of the largest absolute value of the output (at least 1)."""
STORAGE_TOLERANCE: dict[Storage, float] = {"float32": 1e-6, "float16": 0.01, "int8": 0.2}
"""Of the root mean square change that storing weights in fewer bits makes, in standard deviations of the output."""
SIZES = (1, 2, 5)
"""Batch sizes that a graph of any batch is computed with, in turn."""


@dataclass(frozen=True)
class Check:
    """How far a graph is from PyTorch, on inputs of one kind.

    error: the largest absolute difference from the network with the same stored weights, in float32. limit: what it may
    be. storage: the root mean square difference that storing the weights makes, in standard deviations of the output.
    """

    graph: str
    inputs: str
    rows: int
    error: float
    limit: float
    storage: float
    storage_limit: float

    @property
    def passed(self) -> bool:
        """Whether both differences are within their limits; NaN is not."""
        return self.error <= self.limit and self.storage <= self.storage_limit


@torch.no_grad()
def check(
    names: tuple[str, str],
    rows: tuple[Tensor, ...],
    compute: Compute,
    stored: Compute,
    original: Compute,
    *,
    batch: Batch,
    storage: Storage,
) -> Check:
    """Compute all ``rows`` with the graph, with the network as it is stored, and with the original.

    names: of the graph and of its inputs. rows: the inputs, with equally many rows each.
    """
    error = largest = change = total = square = 0.0
    count = 0
    for inputs in _batches(rows, batch):
        got, wanted = compute(inputs).double(), stored(inputs).double()
        error = max(error, float((got - wanted).abs().nan_to_num(nan=torch.inf).max()))
        largest = max(largest, float(wanted.abs().max()))
        exact = wanted if storage == "float32" else original(inputs).double()
        change += float((wanted - exact).square().sum())
        total, square, count = total + float(exact.sum()), square + float(exact.square().sum()), count + exact.numel()
    spread = (square / count - (total / count) ** 2) ** 0.5
    limit = TOLERANCE * max(1.0, largest)
    return Check(
        *names, len(rows[0]), error, limit, (change / count) ** 0.5 / max(spread, 1e-9), STORAGE_TOLERANCE[storage]
    )


def _batches(rows: tuple[Tensor, ...], batch: Batch) -> Iterator[tuple[Tensor, ...]]:
    """Split rows into batches of this size, or of several; the last is filled up with the first rows."""
    first, number = 0, 0
    while first < len(rows[0]):
        size = batch or SIZES[number % len(SIZES)]
        places = torch.arange(first, first + size) % len(rows[0])
        yield tuple(value[places] for value in rows)
        first, number = first + size, number + 1


def table(checks: Iterable[Check]) -> str:
    """Return the checks as a table of Markdown."""
    lines = [
        "| graph | inputs | rows | largest error | allowed | change by storage | allowed |",
        "|---|---|---|" + "--:|" * 4,
    ]
    lines += [
        f"| {one.graph} | {one.inputs} | {one.rows} | {one.error:.2g} | {one.limit:.2g} | {one.storage:.2g} "
        f"| {one.storage_limit:.2g} |"
        for one in checks
    ]
    return "\n".join(lines)
