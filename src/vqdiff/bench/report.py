"""Reports of measurements, as JSON and as a Markdown table."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, make_folder


@dataclass(frozen=True)
class Spread:
    """The median and quartiles of some values."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class ReportRow:
    """One quantity, measured for each program in the order of `Report.programs`."""

    work: str
    quantity: str
    values: list[Spread]
    ratio: Spread | None = None
    """How many times better the first program is than the second, from pairs of values measured in turn."""


@dataclass
class Report:
    """The report of a run of ``vqdiff bench``."""

    title: str
    command: str
    programs: list[str]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    rows: list[ReportRow] = field(default_factory=list)
    when: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def add(
        self,
        work: str,
        quantity: str,
        *values: Sequence[float],
        better: Callable[[float, float], float] | None = None,
    ) -> None:
        """Add a quantity measured for each program; ``better(ours, theirs)`` is the ratio for a pair of values."""
        ratio = None
        if better is not None and len(values) == 2:
            ratio = Spread.of([better(*pair) for pair in zip(*values, strict=True)])
        self.rows.append(ReportRow(work, quantity, [Spread.of(each) for each in values], ratio))

    def find(self, work: str, quantity: str) -> ReportRow:
        """Return the row of that name."""
        return next(row for row in self.rows if (row.work, row.quantity) == (work, quantity))

    def markdown(self) -> str:
        """Format the table under its title, with the command and the machine."""
        facts = [f"{name} {', '.join(fact) if isinstance(fact, list) else fact}" for name, fact in self.machine.items()]
        heads = ["", "", *self.programs] + (["ratio"] if len(self.programs) > 1 else [])
        table = [heads, ["---"] * len(heads)]
        work = ""
        for row in self.rows:
            cells = [row.work if row.work != work else "", row.quantity, *map(str, row.values)]
            cells += [str(row.ratio or "")] if len(self.programs) > 1 else []
            table.append(cells)
            work = row.work
        lines = [f"## {self.title}", "", f"`{self.command}`, {self.when:%Y-%m-%d %H:%M}.", "", "; ".join(facts) + "."]
        lines += ["", *(f"{note}  " for note in self.notes), ""]
        return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in table), ""])

    def save(self, folder: Path) -> Path:
        """Write both forms to ``folder``, named by date and title; return the path of the JSON file."""
        make_folder(folder)
        name = "-".join([f"{self.when:%Y-%m-%d-%H%M}", *self.title.replace(",", "").split()])
        record = dataclasses.asdict(self) | {"when": self.when.isoformat(timespec="seconds")}
        for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", self.markdown())):
            with atomic_path(folder / f"{name}{suffix}") as path:
                path.write_text(text, "utf-8")
        return folder / f"{name}.json"


def check_like(ours: NDArray[Any], theirs: NDArray[Any], tolerance: float, what: str) -> str:
    """Return a line that says how far two arrays differ; InputError if by more than ``tolerance`` of their spread."""
    difference = abs(ours - theirs)
    share = float((difference**2).mean() ** 0.5 / theirs.std())
    line = (
        f"{what} differ by at most {difference.max():.2g}, and in the root mean square by {share:.2g} of their spread"
    )
    if not share <= tolerance:
        raise InputError(f"the programs do not compute the same: {line}, but rounding explains only {tolerance:g}")
    return line
