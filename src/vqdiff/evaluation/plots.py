"""The plots and image sheets of studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

from PIL import Image

from vqdiff.foundation.files import atomic_path
from vqdiff.metrics import Estimate

_SCORES = {
    "fd_effnet": "Fréchet distance (EfficientNet, lower is better)",
    "kd_effnet": "kernel distance (EfficientNet, lower is better)",
    "r_precision_emoji": "R-precision (emoji scorer)",
    "r_precision_emoji_check": "R-precision (second emoji scorer)",
    "diversity": "diversity of a caption's images",
    "text_score_emoji": "text score (emoji scorer)",
    "text_score_emoji_check": "text score (second emoji scorer)",
}

_LABEL = 32
"""Characters in a line of a label."""
_PANELS = 3
"""In a row of a plot with an axis."""
_MARKERS = "osD^"
"""One for every ten lines, as there are ten colours."""

_LOWER = ("fd_", "kd_", "fid", "kid", "seconds", "calls")
"""How the names of the scores begin of which a lower one is better."""


def better(score: str, one: float, other: float) -> bool:
    """Return whether ``one`` is better than ``other``, of a score of this name."""
    return one < other if score.startswith(_LOWER) else one > other


def front(score: str, points: Iterable[Point]) -> list[Point]:
    """Return the Pareto front: the points than which none to the left, at a lower x, is better; from left to right."""
    found = list[Point]()
    for point in sorted(points, key=lambda point: point.x):
        if not found or better(score, point.scores[score].mean, found[-1].scores[score].mean):
            found.append(point)
    return found


@dataclass(frozen=True)
class Point:
    """A position on the x axis and the scores measured there."""

    x: Any
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Line:
    """The points of one line of a plot."""

    points: list[Point] = field(default_factory=list)


def plot_lines(title: str, x: str | None, scores: Sequence[str], lines: Mapping[str, Line], file: Path) -> None:
    """Plot one panel per score, with error bars of one standard deviation; a point without x is a horizontal line.

    x: the field along the axis; None if every point has a text label, which is written to the left.
    """
    words = x is None
    text = [len(wrap(str(point.x), _LABEL)) for line in lines.values() for point in line.points] if words else []
    height = max(4.2, 0.16 * max(text, default=0) * len(text) + 1)  # all rows have as much room as the longest label
    columns = len(scores) if words else min(len(scores), _PANELS)
    rows = -(-len(scores) // columns)
    figure, axes = _figure(columns, rows, (4.4 * columns, height * rows))
    for axis in axes[len(scores) :]:
        axis.remove()
    for axis, score in zip(axes, scores, strict=False):
        for index, (label, line) in enumerate(lines.items()):
            measured = [point for point in line.points if score in point.scores]  # a tokenizer alone is not timed
            if not measured:
                continue
            points = measured if words else sorted(measured, key=lambda point: point.x)
            means = [point.scores[score].mean for point in points]
            if points[0].x == "—":
                axis.axhline(means[0], linestyle="--", color=f"C{index}", label=label)
                continue
            errors = [point.scores[score].std or 0.0 for point in points]
            style = {
                "marker": _MARKERS[index // 10 % len(_MARKERS)],
                "capsize": 3,
                "color": f"C{index}",
                "label": label,
            }
            if words:
                places = ["\n".join(wrap(point.x, _LABEL)) for point in points]
                axis.errorbar(means, places, xerr=errors, linestyle="", **style)
            else:
                axis.errorbar(
                    [point.x for point in points], means, errors, linestyle="-" if index < 10 else "--", **style
                )
        if x == "seconds":
            best = front(
                score,
                [point for line in lines.values() for point in line.points if point.x != "—" and score in point.scores],
            )
            places, means = [point.x for point in best], [point.scores[score].mean for point in best]
            axis.plot(places, means, color="0.6", linewidth=6, alpha=0.5, zorder=0, label="Pareto front")
        axis.set_xlabel(x.replace("_", " ") if x else "")
        axis.set_title(_SCORES.get(score, score), fontsize=10)
        axis.grid(alpha=0.3)
        if words:
            axis.invert_yaxis()
            axis.tick_params(labelleft=axis is axes[0])
        if x in ("network_calls", "seconds"):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
    if len(lines) > 1:
        entries = axes[0].get_legend_handles_labels()
        figure.legend(
            *entries,
            loc="outside lower center",
            ncols=min(len(lines), max(4, 2 * columns) if rows == 1 else columns),
            fontsize=9,
        )
    figure.suptitle(title)
    save_figure(figure, file)


def plot_pictures(
    labels: Sequence[str], captions: Sequence[str], rows: Sequence[Sequence[Image.Image]], file: Path
) -> None:
    """Plot a sheet of images: one row per cell, with its label, and one column per caption."""
    figure, axes = _figure(len(captions), len(rows), (1.25 * len(captions) + 1.6, 1.25 * len(rows) + 0.5))
    for index, axis in enumerate(axes):
        row, column = divmod(index, len(captions))
        axis.imshow(rows[row][column])
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
        if row == 0:
            axis.set_title("\n".join(wrap(captions[column], 20)), fontsize=6)
        if column == 0:
            axis.set_ylabel("\n".join(wrap(labels[row], 18)), fontsize=7, rotation=0, ha="right", va="center")
    save_figure(figure, file)


def _figure(columns: int, rows: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Any, file: Path) -> None:
    """Write a PNG file, with a palette: plots and flat drawings need no more colours."""
    with atomic_path(file) as path:
        figure.savefig(path, format="png", dpi=110)
        image = Image.open(path).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def new_figure(size: tuple[float, float]) -> tuple[Any, Any]:
    """Make a figure with a single axis."""
    figure, axes = _figure(1, 1, size)
    return figure, axes[0]
