"""The held-out scores of a run: which weights were best, when to stop, and the curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path


@dataclass(frozen=True)
class Criterion:
    """The held-out score, by its name in the log, that tells which weights are best."""

    name: str
    larger_is_better: bool = False
    like_loss: bool = True
    """Whether it is the training loss of held-out images, so that one axis shows both."""


class Validation:
    """The best score so far, the step and the weights it belongs to, and how many scores have been worse since.

    With ``patience`` 0, no weights are kept and nothing is ever exhausted.
    """

    def __init__(self, criterion: Criterion, patience: int, state: Mapping[str, Any] | None = None) -> None:
        """``state`` is what :meth:`state` returned."""
        self.criterion, self.patience = criterion, patience
        self.step, self.worse, self.best, self.weights = 0, 0, 0.0, dict[str, Tensor]()
        vars(self).update(state or {})
        # Copies: they are mapped from the checkpoint, and Windows does not replace a file that is.
        self.weights = {name: value.clone() for name, value in self.weights.items() if patience}
        if patience and not self.weights:  # the best ones were not kept, so counting starts afresh
            self.step = self.worse = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this."""
        return {name: getattr(self, name) for name in ("step", "worse", "best", "weights")}

    @property
    def exhausted(self) -> bool:
        """Whether the score has not improved for too long."""
        return 0 < self.patience <= self.worse

    def note(self, step: int, score: float, model: nn.Module) -> None:
        """Take the score of ``model`` at ``step``, which must be later than all before."""
        sign = -1 if self.criterion.larger_is_better else 1
        if self.step and not sign * score < sign * self.best:
            self.worse += 1
            return
        self.step, self.best, self.worse = step, score, 0
        if self.patience:
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Give ``model`` the best weights, if they were kept."""
        if self.weights:
            model.load_state_dict(self.weights)

    def __str__(self) -> str:
        best = f"{self.criterion.name} {self.best:.4g}"
        if not self.worse:
            return f"best so far: {best}"
        left = f", stopping after {self.patience - self.worse} more" if self.patience else ""
        return f"best was {best} at step {self.step}, {self.worse} measurements ago{left}"


def draw_curve(log: Path, file: Path, criterion: Criterion) -> None:
    """Draw the training loss and the held-out score in ``log`` over the steps; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    if all(record.get(name, 1) > 0 for record in records for name in ("loss", criterion.name)):
        axes.set_yscale("log")
    _plot(axes, records, "loss", "training", "tab:blue")
    if not criterion.like_loss:
        axes = axes.twinx()
        axes.set_ylabel(criterion.name)
    _plot(axes, records, criterion.name, "held out", "tab:orange", marker="o")
    figure.legend(loc="outside upper right", ncols=2)
    try:
        with atomic_path(file) as path:
            figure.savefig(path, dpi=120)
    except InputError as error:  # no reason to stop: if the disk is full, the checkpoint will be
        print(f"{file.name} is not drawn: {error}", flush=True)


def _plot(axes: Any, records: list[dict[str, Any]], name: str, label: str, colour: str, **style: Any) -> None:
    points = [(record["step"], record[name]) for record in records if name in record]
    axes.plot([step for step, _ in points], [value for _, value in points], color=colour, label=label, **style)
