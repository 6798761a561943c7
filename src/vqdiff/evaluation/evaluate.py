"""``vqdiff evaluate``: one model, measured by a protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vqdiff.errors import InputError
from vqdiff.evaluation.drawing import only_main_process
from vqdiff.evaluation.judge import Cell, Choices, Judge, Null, Trial
from vqdiff.evaluation.protocol import Result, compare


@dataclass(frozen=True)
class Evaluation:
    """Everything ``vqdiff evaluate`` needs."""

    output: Path
    """Writes ``output.json`` and ``output.md``."""
    trial: Trial
    model: str = "emoji"
    null: Null = "own"
    sampling: Choices = field(default_factory=Choices)
    reconstruct: bool = False
    """Measure the image tokenizer alone: real pictures, encoded and decoded."""


def evaluate(config: Evaluation, against: Path | None = None, device: str = "auto") -> str:
    """Measure, write the result, and return it as Markdown, compared with an earlier one if ``against`` names it.

    Raises InputError, before anything is drawn, if the earlier result was measured differently.
    """
    if not config.trial.data.is_dir():
        raise InputError(f"{config.trial.data} is no folder: build it with `vqdiff data emoji -o {config.trial.data}`")
    earlier = Result.load(against) if against is not None else None
    judge = Judge(config.trial, device)
    cell = Cell(config.model, config.null, config.sampling, config.reconstruct)
    judge.pipe(cell.model, cell.null)
    if earlier is not None:
        earlier.measurement.check_like(judge.measurement(reconstruct=cell.reconstruct))
    result = judge.measure(cell)
    with only_main_process() as main:
        if main:
            config.output.parent.mkdir(parents=True, exist_ok=True)
            result.save(config.output)
    return result.markdown() if earlier is None else compare(earlier, result)
