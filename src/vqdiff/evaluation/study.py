"""Studies: many cells measured in the same way, shown as a table, a plot with error bars and a sheet of images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqdiff.evaluation.accuracy import Accuracy, measure_accuracy
from vqdiff.evaluation.generation import only_main_process
from vqdiff.evaluation.judge import SECONDS, TIMED, Judge
from vqdiff.evaluation.plots import Line, Point, better, plot_lines, plot_pictures
from vqdiff.evaluation.protocol import Result, table
from vqdiff.evaluation.trial import Cell, Choices, Null, Trial
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, make_folder
from vqdiff.foundation.options import derived, options_of
from vqdiff.foundation.processor import processor
from vqdiff.metrics import differ
from vqdiff.sampling import get_sampler
from vqdiff.sampling.checks import uses
from vqdiff.settings import SamplingSettings

_OPTIONS = options_of(SamplingSettings)


@dataclass(frozen=True)
class _Grid:
    """Cells: every combination of these values and settings. For a field left out, the model's own setting is used."""

    model: tuple[str, ...] = ("emoji",)
    null: tuple[Null, ...] = ("own",)
    reconstruct: bool = False
    """Reconstruct real images with the image tokenizer instead: an upper bound for any denoiser."""

    def __post_init__(self) -> None:
        for name, one in _OPTIONS.items():
            for value in getattr(self, name):
                if value is not None:
                    one.check(name, value)

    def cells(self) -> Iterator[Cell]:
        """Yield all combinations."""
        values = list(itertools.product(*(getattr(self, name) for name in _OPTIONS)))
        for model, null, chosen in itertools.product(self.model, self.null, values):
            yield Cell(model, null, Choices(**dict(zip(_OPTIONS, chosen, strict=True))), self.reconstruct)


if TYPE_CHECKING:
    Grid = _Grid
else:
    Grid = derived("Grid", SamplingSettings, lambda one: tuple[one.type | None, ...], (None,), (_Grid,))


@dataclass(frozen=True)
class Study:
    """The settings of ``vqdiff study``: a question, the cells that answer it, and how to show them."""

    title: str
    output: Path
    """Folder for ``table.md``, ``results.json``, ``plot.png`` and ``pictures.png``."""
    trial: Trial
    grid: tuple[Grid, ...] = ()
    x: str | None = None
    """The field on the plot's x axis, or seconds; cells that differ in others form other lines. None: every cell
    separately."""
    best_over: tuple[str, ...] = ()
    """Fields whose values are compared: the plot has only the best cell of those that differ in nothing else."""
    timed: int = 0
    """Images to time each cell with, one by one, in turns with the other cells: ``seconds`` and ``calls`` of one image
    are two more scores."""
    scores: tuple[str, ...] = ("fd_effnet", "r_precision_emoji_check")
    """The scores to plot, one panel each."""
    pictures: int = 8
    """Columns of the sheet of images: the same captions and seeds for every cell."""
    accuracy: Accuracy | None = None
    """Instead of a grid: how often the most likely code is right, against its purity."""
    names: dict[str, str] = field(default_factory=dict)
    """Labels for values, such as ``"null.zero" = "zeros"``."""


def run_study(
    study: Study, device: str = "auto", precision: Precision = "auto", report: Callable[[str], None] = print
) -> None:
    """Measure what is not measured yet and write table, plot and images into ``study.output``.

    Raises InputError, before anything is generated, for a study without cells, an unknown score or axis.
    """
    if bool(study.grid) == (study.accuracy is not None):
        raise InputError("a study needs either [[grid]] tables or one [accuracy] table")
    make_folder(study.output)
    if study.accuracy is not None:
        judge = Judge(study.trial, [Cell(study.accuracy.model)], device, precision)
        measure_accuracy(study.title, study.accuracy, judge, study.output)
        return
    cells = list(dict.fromkeys(cell for grid in study.grid for cell in grid.cells()))
    judge = Judge(study.trial, cells, device, precision)
    known = [*judge.scoring.names(), *(TIMED if study.timed else [])]
    if unknown := set(study.scores) - set(known):
        raise InputError(f"unknown score {min(unknown)!r}; there are {', '.join(known)}")
    if not study.scores or study.pictures < 1:
        raise InputError("scores needs at least one name, and pictures must be at least 1")
    facts = [_facts(cell, judge) for cell in cells]
    fields = [*facts[0], *([SECONDS] if study.timed else [])]
    for name, values in (("x", [study.x] if study.x is not None else []), ("best_over", study.best_over)):
        if unknown := [value for value in values if value not in fields]:
            raise InputError(f"{name} is {unknown[0]!r}: it must be one of {', '.join(fields)}")
    if study.x == "network_calls" and any(str(fact["network_calls"]).startswith("at most") for fact in facts):
        raise InputError("x is network_calls, of which an adaptive sampler has no fixed number: use seconds, and timed")
    varying = _varying(facts)
    labels = [_label(fact, varying, study.names) for fact in facts]
    with only_main_process() as main:
        if main:
            report(f"{study.title} → {study.output}")
    results = list[Result]()
    for number, (cell, label) in enumerate(zip(cells, labels, strict=True), start=1):
        results.append(judge.measure(cell))
        shown = "  ".join(f"{name} {results[-1].scores[name]}" for name in study.scores if name not in TIMED)
        with only_main_process() as main:
            if main:
                report(f"{number}/{len(cells)}  {label}:  {shown}")
    if study.timed:
        times = judge.times(cells, study.timed)
        results = [replace(one, scores=one.scores | own) for one, own in zip(results, times, strict=True)]
    rows = [judge.pictures(cell, study.pictures) for cell in cells]
    with only_main_process() as main:
        if main:
            _write(study, results, facts, varying)
            plot_pictures(labels, judge.captions_of(study.pictures), rows, study.output / "pictures.png")


def _facts(cell: Cell, judge: Judge) -> dict[str, Any]:
    """Everything that may differ between cells: the model's own settings are filled in, and those not used left out."""
    if cell.reconstruct:
        return {"model": cell.model, "null": "tokenizer alone"} | dict.fromkeys(judge.settings(cell), _NONE)
    settings = judge.settings(cell)
    sampler = get_sampler(settings["sampler"])
    unused = [name for name in _OPTIONS if name != "steps" and not uses(sampler, name)]
    return {"model": cell.model, "null": judge.null(cell), **settings, **dict.fromkeys(unused, _NONE)}


def _varying(facts: list[dict[str, Any]]) -> list[str]:
    """The fields that differ between cells, except those that follow from others."""
    facts = [fact for fact in facts if fact["steps"] != _NONE] or facts
    varying = [name for name in facts[0] if len(_values(facts, name)) > 1]
    follows = ["network_calls"] if all(fact["network_calls"] == fact["steps"] for fact in facts) else []
    if "guidance" in varying and len({fact["null"] for fact in facts} - {"none"}) == 1:
        follows.append("null")  # there is none where guidance is 1
    return [name for name in varying if name not in follows]


def _values(facts: list[dict[str, Any]], name: str) -> list[Any]:
    """The different values of a field, where it is used."""
    return list(dict.fromkeys(fact[name] for fact in facts if fact[name] != _NONE))


_NONE = "—"
"""A setting that is not used; all settings of an image tokenizer alone."""

_LEGENDS = {"network_calls": "{} calls"} | {name: one.legend for name, one in _OPTIONS.items() if one.legend}


def _word(fact: dict[str, Any], name: str, names: dict[str, str]) -> str:
    return names.get(f"{name}.{fact[name]}", str(fact[name]))


def _label(fact: dict[str, Any], varying: list[str], names: dict[str, str]) -> str:
    if fact["steps"] == _NONE:
        return "tokenizer alone"
    used = [name for name in varying if fact[name] != _NONE]
    parts = [_LEGENDS[name].format(fact[name]) if name in _LEGENDS else _word(fact, name, names) for name in used]
    return ", ".join(parts) or "generated"


def _write(study: Study, results: list[Result], facts: list[dict[str, Any]], varying: list[str]) -> None:
    first = results[0].measurement
    heads = [*varying, *study.scores]
    rows = [
        [_label(fact, varying, study.names), *([""] * (len(varying) - 1))]
        if fact["steps"] == _NONE
        else [_word(fact, name, study.names) for name in varying]
        for fact in facts
    ]
    for row, result in zip(rows, results, strict=True):
        for name in study.scores:
            if name not in result.scores:
                row.append(_NONE)
                continue
            mark = "\\*" if differ(results[0].scores[name], result.scores[name]) else ""
            row.append(f"{result.scores[name]}{mark}")
    alone = {name: values[0] for name in facts[0] if len(values := _values(facts, name)) == 1}
    fixed = [f"{name} {_word(alone, name, study.names)}" for name in alone]
    text = (
        f"{table(heads, rows)}\n\n"
        f"Mean ± standard deviation over {len(first.seeds)} repetitions of {first.num_pictures} images. "
        f"\\* differs from the first row (paired t-test over repetitions, p < 0.05). Captions of {first.prompts}, "
        f"{first.num_reference} real images of {first.reference}; {', '.join(fixed)}; {_timing(study)}model "
        f"{', '.join(dict.fromkeys(result.subject.model_hash for result in results))}, protocol {first.hash}.\n"
    )
    with atomic_path(study.output / "table.md") as path:
        path.write_text(text, "utf-8")
    with atomic_path(study.output / "results.json") as path:
        path.write_text(json.dumps([asdict(result) | {"id": result.id} for result in results], indent=1) + "\n")
    plot_lines(study.title, study.x, study.scores, _lines(study, results, facts, varying), study.output / "plot.png")


def _timing(study: Study) -> str:
    return f"seconds of {study.timed} images, one by one, on {processor().name}; " if study.timed else ""


def _lines(study: Study, results: list[Result], facts: list[dict[str, Any]], varying: list[str]) -> dict[str, Line]:
    """The lines of the plot: cells that differ in x alone, the best of those that differ in a field compared."""
    lines, best = dict[str, Line](), dict[tuple[str, ...], Result]()
    shown = ("steps", "network_calls") if study.x in ("steps", "network_calls", SECONDS) else (study.x,)
    others = [name for name in varying if study.x is not None and name not in (*shown, *study.best_over)]
    rivals = [tuple(str(fact[name]) for name in varying if name not in study.best_over) for fact in facts]
    score = study.scores[0]
    for those, result in zip(rivals, results, strict=True):
        if those not in best or better(score, result.scores[score].mean, best[those].scores[score].mean):
            best[those] = result
    for fact, those, result in zip(facts, rivals, results, strict=True):
        if best[those] is not result:
            continue
        line = lines.setdefault(_label(fact, others, study.names), Line())
        where = _label(fact, varying, study.names) if study.x is None else fact.get(study.x, _NONE)
        if study.x == SECONDS and SECONDS in result.scores:
            where = result.scores[SECONDS].mean
        line.points.append(Point(where, result.scores))
    return lines
