"""``vqdiff evaluate``: measure one model by a protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vqdiff.evaluation.generation import only_main_process
from vqdiff.evaluation.judge import Judge
from vqdiff.evaluation.protocol import Result, compare
from vqdiff.evaluation.trial import Cell, Choices, Null, Trial
from vqdiff.foundation.config import Precision
from vqdiff.foundation.files import check_writable, make_folder


@dataclass(frozen=True)
class Evaluation:
    """The settings of ``vqdiff evaluate``."""

    output: Path
    """Writes ``output.json`` and ``output.md``."""
    trial: Trial
    model: str = "emoji"
    null: Null = "own"
    sampling: Choices = field(default_factory=Choices)
    reconstruct: bool = False
    """Measure the image tokenizer alone: real images, encoded and decoded."""


def evaluate(
    config: Evaluation, against: Path | None = None, device: str = "auto", precision: Precision = "auto"
) -> str:
    """Measure, write the result, and return it as Markdown, compared with an earlier one if ``against`` names it.

    Raises InputError, before anything is generated, if the earlier result was measured differently.
    """
    earlier = Result.load(against) if against is not None else None
    make_folder(config.output.parent)
    check_writable(config.output.with_name(f"{config.output.name}.json"))
    cell = Cell(config.model, config.null, config.sampling, config.reconstruct)
    judge = Judge(config.trial, [cell], device, precision)
    if earlier is not None:
        earlier.measurement.check_like(judge.measurement(reconstruct=cell.reconstruct))
    result = judge.measure(cell)
    with only_main_process() as main:
        if main:
            result.save(config.output)
    return result.markdown() if earlier is None else compare(earlier, result)
