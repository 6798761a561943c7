"""Token accuracy against purity at several times (the paper's Figure 1)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqdiff.diffusion import purity, q_sample
from vqdiff.evaluation.generation import only_main_process
from vqdiff.evaluation.plots import new_figure, save_figure
from vqdiff.evaluation.protocol import table
from vqdiff.evaluation.trial import Cell
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.shapes import Float

if TYPE_CHECKING:
    from vqdiff.evaluation.judge import Judge


@dataclass(frozen=True)
class Accuracy:
    """Noise real images to each of ``times`` and predict their masked tokens."""

    times: tuple[int, ...]
    bins: int = 10
    model: str = "emoji"
    blank: bool = False
    """Also count positions whose true token is the most frequent one: the background is nearly always predicted."""


@dataclass(frozen=True)
class Bin:
    """The masked positions at one time whose purity is within one range."""

    t: int
    purity: float
    accuracy: float
    error: float
    """Standard error of the accuracy, from the images' own accuracies."""
    positions: int


@torch.inference_mode()
def measure_accuracy(title: str, config: Accuracy, judge: Judge, output: Path) -> list[Bin]:
    """Measure, and write ``table.md``, ``results.json`` and ``plot.png``."""
    model, captions = judge.pipe(Cell(config.model)).model, judge.fitted(Cell(config.model))
    schedule = model.schedule
    if config.bins < 1:
        raise InputError(f"bins is {config.bins}: it must be at least 1")
    if not all(1 <= t <= schedule.num_steps for t in config.times):
        raise InputError(f"times are {config.times}: they must be from 1 to {schedule.num_steps}")
    tokens = judge.tokens(Cell(config.model, reconstruct=True), seed=0).to(model.sampling_device)
    commonest = int(tokens.flatten().bincount().argmax())
    found = list[Bin]()
    for t in config.times:
        sure, right, picture = list[Tensor](), list[Tensor](), list[Tensor]()
        random = torch.Generator().manual_seed(judge.trial.seeds[0] + t)
        for start in range(0, len(tokens), 16):
            x0 = tokens[start : start + 16]
            times = torch.full((len(x0),), t)
            xt = q_sample(schedule, x0.cpu(), times, generator=random).to(model.sampling_device)
            denoise = model.bind(model.encode(captions[start : start + 16]))
            log_p0 = denoise(xt, times.to(model.sampling_device)).float().log_softmax(-1)
            counted = xt == schedule.num_codes
            if not config.blank:
                counted &= x0 != commonest
            sure.append(purity(log_p0)[counted])
            right.append((log_p0.argmax(-1) == x0)[counted])
            picture.append(counted.nonzero()[:, 0] + start)
        found += _binned(t, torch.cat(sure), torch.cat(right), torch.cat(picture), config.bins)
    with only_main_process() as main:
        if main:
            _write(title, config, found, judge, output)
    return found


def _binned(t: int, sure: Float[Tensor, "N"], right: Tensor, picture: Tensor, bins: int) -> list[Bin]:
    place = (sure * bins).long().clamp(max=bins - 1)
    found = list[Bin]()
    for index in range(bins):
        inside = place == index
        number = int(inside.sum())
        if number < 50:  # too few to be meaningful
            continue
        hits = right[inside].double()
        # Positions of one image are not independent: the error is that of a ratio of sums over images.
        total = torch.zeros(int(picture.max()) + 1, dtype=torch.float64)
        residual = total.index_add(0, picture[inside].cpu(), (hits - hits.mean()).cpu())
        error = float(residual.square().sum().sqrt()) / number
        found.append(Bin(t, float(sure[inside].double().mean()), float(hits.mean()), error, number))
    return found


def _write(title: str, config: Accuracy, found: list[Bin], judge: Judge, output: Path) -> None:
    model, measurement = judge.pipe(Cell(config.model)).model.fingerprint, judge.measurement()
    rows = [(one.t, f"{one.purity:.3f}", f"{one.accuracy:.3f} ± {one.error:.3f}", one.positions) for one in found]
    text = table(("t", "purity", "accuracy ± standard error", "positions"), rows)
    with atomic_path(output / "table.md") as path:
        path.write_text(
            f"{text}\n\n{measurement.num_pictures} images of {measurement.prompts}, model {model}.\n", "utf-8"
        )
    with atomic_path(output / "results.json") as path:
        protocol = {"model_hash": model, **asdict(config), "measurement": asdict(measurement)}
        path.write_text(json.dumps(protocol | {"bins": [asdict(one) for one in found]}, indent=1) + "\n")
    figure, axis = new_figure((5.6, 4.4))
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="accuracy = purity")
    for t in dict.fromkeys(one.t for one in found):
        bins = [one for one in found if one.t == t]
        axis.errorbar(
            [one.purity for one in bins],
            [one.accuracy for one in bins],
            [one.error for one in bins],
            marker="o",
            capsize=2,
            label=f"t = {t}",
        )
    axis.set_xlabel("purity: probability of the most likely code")
    axis.set_ylabel("share of positions predicted correctly")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    save_figure(figure, output / "plot.png")
