"""Studies: many cells measured alike, as one table, one plot with error bars and one sheet of pictures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vqdiff.errors import InputError
from vqdiff.evaluation.accuracy import Accuracy, measure_accuracy
from vqdiff.evaluation.drawing import only_main_process
from vqdiff.evaluation.judge import Cell, Choices, Judge, Null, Trial
from vqdiff.evaluation.plots import Line, Point, plot_lines, plot_pictures
from vqdiff.evaluation.protocol import Result, table
from vqdiff.files import atomic_path
from vqdiff.sampling import get_sampler


@dataclass(frozen=True)
class Grid:
    """Cells: every combination of these values. A value left out is the model's own setting."""

    model: tuple[str, ...] = ("emoji",)
    null: tuple[Null, ...] = ("own",)
    sampler: tuple[str | None, ...] = (None,)
    steps: tuple[int | None, ...] = (None,)
    guidance: tuple[float | None, ...] = (None,)
    truncation: tuple[float | None, ...] = (None,)
    prior_scale: tuple[float | None, ...] = (None,)

    def __post_init__(self) -> None:
        for name in self.sampler:
            if name is not None:
                get_sampler(name)

    def cells(self) -> Iterator[Cell]:
        """All combinations."""
        sampling = itertools.product(self.sampler, self.steps, self.guidance, self.truncation, self.prior_scale)
        for (model, null), values in itertools.product(itertools.product(self.model, self.null), list(sampling)):
            yield Cell(model, null, Choices(*values))


@dataclass(frozen=True)
class Study:
    """Everything ``vqdiff study`` needs: a question, the cells that answer it, and how to show them."""

    title: str
    output: Path
    """Folder for ``table.md``, ``results.json``, ``plot.png`` and ``pictures.png``."""
    trial: Trial
    grid: tuple[Grid, ...] = ()
    x: str | None = None
    """The field along the plot's axis; cells that differ in others are other lines. None: every cell by itself."""
    scores: tuple[str, ...] = ("fd_effnet", "r_precision_emoji_check")
    """One panel each."""
    pictures: int = 8
    """Columns of the sheet of pictures: the same captions and seeds for every cell."""
    accuracy: Accuracy | None = None
    """Instead of a grid: how often the likeliest code is right, against its purity."""
    names: dict[str, str] = field(default_factory=dict)
    """Other words for values in labels, such as ``own = "learnable null"``."""


def run_study(study: Study, device: str = "auto", report: Callable[[str], None] = print) -> None:
    """Measure what is not measured yet and write table, plot and pictures into ``study.output``.

    Raises InputError for a study without cells, an unknown score or axis.
    """
    if bool(study.grid) == (study.accuracy is not None):
        raise InputError("a study needs either [[grid]] tables or one [accuracy] table")
    if not study.trial.data.is_dir():
        raise InputError(f"{study.trial.data} is no folder: build it with `vqdiff data emoji -o {study.trial.data}`")
    study.output.mkdir(parents=True, exist_ok=True)
    judge = Judge(study.trial, device)
    if study.accuracy is not None:
        measure_accuracy(study.title, study.accuracy, judge, study.output)
        return
    cells = list(dict.fromkeys(cell for grid in study.grid for cell in grid.cells()))
    facts = [_facts(cell, judge) for cell in cells]
    if study.x is not None and study.x not in facts[0]:
        raise InputError(f"x is {study.x!r}: it must be one of {', '.join(facts[0])}")
    varying = [name for name in facts[0] if len({fact[name] for fact in facts}) > 1]
    results = list[Result]()
    for number, (cell, fact) in enumerate(zip(cells, facts, strict=True), start=1):
        results.append(judge.measure(cell))
        if unknown := set(study.scores) - results[-1].scores.keys():
            raise InputError(f"unknown score {min(unknown)!r}; there are {', '.join(results[-1].scores)}")
        shown = "  ".join(f"{name} {results[-1].scores[name]}" for name in study.scores)
        report(f"{number}/{len(cells)}  {_label(fact, varying, study.names)}:  {shown}")
    labels = [_label(fact, varying, study.names) for fact in facts]
    rows = [judge.pictures(cell, study.pictures) for cell in cells]
    with only_main_process() as main:
        if main:
            _write(study, results, facts, varying)
            plot_pictures(labels, judge.captions_of(study.pictures), rows, study.output / "pictures.png")


def _facts(cell: Cell, judge: Judge) -> dict[str, Any]:
    """All that may differ between cells, with the model's own settings filled in."""
    pipe = judge.pipe(cell.model, cell.null)
    settings = asdict(pipe.settings(**vars(cell.sampling)))
    null = cell.null if settings["guidance"] != 1 else "none"  # what is not looked at makes no difference
    return {"model": cell.model, "null": null, **settings}


_WORDS = {"steps": "{} steps", "guidance": "guidance {:g}", "truncation": "truncation {:g}", "prior_scale": "r = {:g}"}


def _label(fact: dict[str, Any], varying: list[str], names: dict[str, str]) -> str:
    words = {
        "steps": "{} steps",
        "guidance": "guidance {:g}",
        "truncation": "truncation {:g}",
        "prior_scale": "r = {:g}",
    }
    parts = [names.get(str(fact[name]), words.get(name, "{}").format(fact[name])) for name in varying]
    return ", ".join(parts) or "default settings"


def _write(study: Study, results: list[Result], facts: list[dict[str, Any]], varying: list[str]) -> None:
    first = results[0].measurement
    heads = [*varying, *study.scores]
    rows = [
        [*(study.names.get(str(fact[name]), fact[name]) for name in varying), *(result.scores[s] for s in study.scores)]
        for fact, result in zip(facts, results, strict=True)
    ]
    fixed = [f"{name} {facts[0][name]}" for name in facts[0] if name not in varying]
    text = (
        f"{table(heads, rows)}\n\n"
        f"{first.num_pictures} pictures a repetition, {len(first.seeds)} repetitions; captions of {first.prompts}, "
        f"{first.num_reference} real pictures of {first.reference}; {', '.join(fixed)}; model "
        f"{', '.join(dict.fromkeys(result.subject.model_hash for result in results))}, "
        f"protocol {first.hash}.\n"
    )
    with atomic_path(study.output / "table.md") as path:
        path.write_text(text, "utf-8")
    with atomic_path(study.output / "results.json") as path:
        path.write_text(json.dumps([asdict(result) | {"id": result.id} for result in results], indent=1) + "\n")
    lines = dict[str, Line]()
    others = [name for name in varying if study.x not in (None, name)]
    for fact, result in zip(facts, results, strict=True):
        line = lines.setdefault(_label(fact, others, study.names), Line())
        where = _label(fact, varying, study.names) if study.x is None else fact[study.x]
        line.points.append(Point(where, result.scores))
    plot_lines(study.title, study.x, study.scores, lines, study.output / "plot.png")
