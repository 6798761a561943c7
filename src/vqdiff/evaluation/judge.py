"""Score what a model draws: against real pictures, against its captions, factor by factor."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vqdiff
from vqdiff.data import PictureSet, load
from vqdiff.errors import InputError
from vqdiff.evaluation.drawing import draw, only_main_process
from vqdiff.evaluation.features import CLIP, EfficientNetLite0, Inception, Views
from vqdiff.evaluation.metrics import (
    Estimate,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    retrieved,
    structural_similarity,
    summary,
    text_score,
)
from vqdiff.evaluation.protocol import Measurement, Result, Subject
from vqdiff.evaluation.scorer import Scorer, load_scorer, mean_states, scorer_text_encoder, scorers_folder
from vqdiff.model import fingerprint
from vqdiff.pictures import to_pixels
from vqdiff.pipeline import Pipeline
from vqdiff.pipeline import load as load_pipeline
from vqdiff.shapes import Int
from vqdiff.text import NullCondition, NullConfig
from vqdiff.training.tokenizer import reconstruction_quality

Null = Literal["own", "empty", "zero"]
"""The model's own null condition; that of the empty caption; zeros."""


@dataclass(frozen=True)
class Trial:
    """What is asked of every model alike; two results of one trial may be compared."""

    data: Path
    prompts: str = "test_style"
    """The split whose captions are drawn, one picture each."""
    reference: str = "test_style"
    """The split of real pictures to compare with."""
    num_pictures: int = 0
    """How many captions of the split, evenly spread; 0 for all."""
    seeds: tuple[int, ...] = (0, 1_000_000)
    """A repetition each; picture i of a repetition has its seed + i."""
    choices: int = 100
    """Captions that R-precision chooses among."""
    scorers: tuple[str, ...] = ("emoji", "emoji_check")
    inception: Path | None = None
    """A TorchScript file of Inception: adds FID, KID and the Inception score."""
    clip: Path | None = None
    """A CLIP folder: adds CLIP score and R-precision."""
    drawn: Path = Path("runs/drawn")
    """Where drawn tokens are kept; what is there is not drawn again."""
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds is empty: give at least one")
        if self.batch_size < 1 or self.num_pictures < 0:
            raise InputError("batch_size must be at least 1, and num_pictures at least 0")


@dataclass(frozen=True)
class Choices:
    """Sampling settings of one's own; those left out are the model's."""

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    truncation: float | None = None
    prior_scale: float | None = None


@dataclass(frozen=True)
class Cell:
    """One thing to be measured: a model with a null condition and settings, or its image tokenizer alone."""

    model: str = "emoji"
    null: Null = "own"
    sampling: Choices = field(default_factory=Choices)
    reconstruct: bool = False


class Judge:
    """Measures cells by one trial; what all cells share is computed once."""

    def __init__(self, trial: Trial, device: str = "auto") -> None:
        self.trial, self.device = trial, device
        self.network = EfficientNetLite0()
        self.scorers = {name: load_scorer(scorers_folder() / name) for name in trial.scorers}
        self.pipes = dict[tuple[str, Null], Pipeline]()

    def pipe(self, model: str, null: Null = "own") -> Pipeline:
        """The pipeline of a model, loaded once, with another null condition if asked for."""
        if (model, null) not in self.pipes:
            if null == "own":
                self.pipes[model, null] = load_pipeline(model, device=self.device)
            else:
                own = self.pipe(model).model
                if own.text_encoder is None:
                    raise InputError(f"{model} draws no text, so it has no null condition {null!r}")
                other = NullCondition(NullConfig(null, own.text_encoder.max_tokens, own.text_encoder.width))
                if null == "empty":
                    other.set_empty(own.text_encoder)
                self.pipes[model, null] = Pipeline(replace(own, null_condition=other.to(own.device)))
        return self.pipes[model, null]

    @cached_property
    def image_size(self) -> int:
        """Pixels along a side, those of the real pictures and of all that are drawn."""
        return next(iter(self.pipes.values())).model.image_tokenizer.config.image_size

    @cached_property
    def asked(self) -> PictureSet:
        """The rows whose captions are drawn."""
        rows = load(self.trial.data, self.trial.prompts, self.image_size)
        count = self.trial.num_pictures or len(rows)
        if count > len(rows):
            raise InputError(f"num_pictures is {count}: {self.trial.prompts} has {len(rows)}")
        chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
        columns = {name: values[chosen] for name, values in rows.columns.items()}
        captions = [rows.captions[row] for row in chosen]
        return PictureSet(rows.pixels[chosen], captions, columns, np.full(count, 1 / count))

    def captions_of(self, count: int) -> list[str]:
        """``count`` of the captions, evenly spread."""
        return [self.captions[row] for row in self._spread(count)]

    def pictures(self, cell: Cell, count: int) -> list[Image.Image]:
        """What a cell drew in its first repetition for `captions_of` the same ``count``."""
        tokens = self.tokens(cell, self.trial.seeds[0])
        return self.pipe(cell.model, cell.null).decode(tokens[self._spread(count)])

    def _spread(self, count: int) -> list[int]:
        return [row * len(self.captions) // count for row in range(count)]

    @property
    def captions(self) -> list[str]:
        """The first caption of every row that is asked for."""
        return [texts[0] for texts in self.asked.captions]

    @cached_property
    def texts(self) -> Tensor:
        """Mean text features of the captions."""
        first = next(iter(self.scorers.values()))
        return mean_states(scorer_text_encoder(first), self.captions)

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """Features of the real pictures in every network."""
        return self._features(_batches(load(self.trial.data, self.trial.reference, self.image_size).pixels))

    @cached_property
    def inception(self) -> Inception | None:
        return Inception(self.trial.inception) if self.trial.inception else None

    @cached_property
    def clip(self) -> CLIP | None:
        return CLIP(self.trial.clip) if self.trial.clip else None

    def measurement(self, *, reconstruct: bool = False) -> Measurement:
        """How this judge measures."""
        networks = [network for network in (self.inception, self.clip) if network is not None]
        reference = load(self.trial.data, self.trial.reference, self.image_size).pixels
        return Measurement(
            task="reconstruction" if reconstruct else "text to picture",
            num_pictures=len(self.captions),
            prompts=self.trial.prompts,
            prompts_hash=_hash(self.captions),
            reference=self.trial.reference,
            num_reference=len(reference),
            reference_hash=hashlib.sha256(np.ascontiguousarray(reference).tobytes()).hexdigest()[:12],
            image_size=self.image_size,
            resize="none: drawn at the size of the real pictures",
            seeds=(0,) if reconstruct else self.trial.seeds,
            features=", ".join([self.network.name, *(network.name for network in networks)]),
            features_hash=_hash([self.network.fingerprint, *(network.fingerprint for network in networks)]),
            scorer=", ".join(self.scorers),
            scorer_hash=_hash([fingerprint(scorers_folder() / name) for name in self.scorers]),
            choices=self.trial.choices,
        )

    def measure(self, cell: Cell) -> Result:
        """Draw what is missing and score it; the mean and deviation are those of the trial's repetitions."""
        pipe = self.pipe(cell.model, cell.null)
        settings = pipe.settings(**vars(cell.sampling))
        subject = Subject(
            model=pipe.model.card.name,
            model_hash=pipe.model.fingerprint,
            dtype=str(next(pipe.model.denoiser.parameters()).dtype).removeprefix("torch."),
            device=pipe.model.device.type,
            settings={} if cell.reconstruct else asdict(settings),
            null=cell.null,
        )
        measurement = self.measurement(reconstruct=cell.reconstruct)
        stem = self._folder(subject) / f"result-{measurement.hash}"
        if stem.with_suffix(".json").exists():
            return Result.load(stem.with_suffix(".json"))
        drawn = [self.tokens(cell, seed) for seed in measurement.seeds]
        with only_main_process() as main:
            if main:
                self._save(subject, measurement, self._scores(drawn, pipe, reconstruct=cell.reconstruct), stem)
        return Result.load(stem.with_suffix(".json"))

    def _scores(self, drawn: Sequence[Tensor], pipe: Pipeline, *, reconstruct: bool) -> dict[str, Estimate]:
        runs = [self._score(tokens, pipe) | (self._fidelity(pipe) if reconstruct else {}) for tokens in drawn]
        return {name: summary([run[name] for run in runs]) for name in runs[0]}

    @staticmethod
    def _save(subject: Subject, measurement: Measurement, scores: dict[str, Estimate], stem: Path) -> None:
        versions = {"vqdiff": vqdiff.__version__, "torch": torch.__version__, "python": platform.python_version()}
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        stem.parent.mkdir(parents=True, exist_ok=True)
        Result(subject, measurement, versions, scores, command).save(stem)

    def tokens(self, cell: Cell, seed: int) -> Int[Tensor, "N L"]:
        """What a cell draws in one repetition: from the captions, or by encoding the real pictures."""
        pipe = self.pipe(cell.model, cell.null)
        if cell.reconstruct:
            with torch.inference_mode():
                encode = pipe.model.image_tokenizer.encode
                return torch.cat([encode(pixels.to(pipe.model.device)) for pixels in _batches(self.asked.pixels)])
        settings = pipe.settings(**vars(cell.sampling))
        key = [pipe.model.fingerprint, str(next(pipe.model.denoiser.parameters()).dtype), cell.null, *self.captions]
        folder = self.trial.drawn / _hash([*key, json.dumps(asdict(settings))]) / str(seed)
        return draw(pipe, self.captions, seed, settings, folder, batch_size=self.trial.batch_size)

    def _folder(self, subject: Subject) -> Path:
        return self.trial.drawn / "results" / _hash([json.dumps(asdict(subject))])

    @torch.inference_mode()
    def _pixels(self, tokens: Tensor, pipe: Pipeline) -> Iterator[Tensor]:
        for batch in tokens.to(pipe.model.device).split(1):  # as pictures are decoded for users
            pixels = pipe.model.image_tokenizer.decode(batch)
            yield (pixels.float().clamp(0, 1) * 255).round().cpu() / 255

    def _features(self, batches: Iterator[Tensor]) -> dict[str, Tensor]:
        views, parts = list[Views](), dict[str, list[Tensor]]()
        for pixels in batches:
            views.append(self.network(pixels))
            if self.inception is not None:
                parts.setdefault("inception", []).append(self.inception.features(pixels))
                parts.setdefault("inception_logits", []).append(self.inception.logits(pixels))
            if self.clip is not None:
                parts.setdefault("clip", []).append(self.clip.features(pixels))
        seen = Views(*(torch.cat(view) for view in zip(*views, strict=True)))
        return seen._asdict() | {name: torch.cat(batches) for name, batches in parts.items()}

    @torch.inference_mode()
    def _score(self, tokens: Tensor, pipe: Pipeline) -> dict[str, float]:
        drawn, real = self._features(self._pixels(tokens, pipe)), self.reference
        scorer = next(iter(self.scorers.values()))
        scores = {
            "fd_effnet": frechet_distance(*(scorer.project(scorer.view(_views(one))) for one in (real, drawn))),
            "kd_effnet": kernel_distance(real["final"], drawn["final"])[0],
        }
        scores |= asdict(manifold(real["final"], drawn["final"]))
        for name, one in self.scorers.items():
            scores |= self._captioned(name, one, _views(drawn))
        if "inception" in drawn:
            scores["fid"] = frechet_distance(real["inception"], drawn["inception"])
            scores["kid"] = kernel_distance(real["inception"], drawn["inception"])[0]
            scores["inception_score"] = inception_score(drawn["inception_logits"])[0]
        if self.clip is not None:
            texts = self.clip.texts(self.captions)
            scores["clip_score"] = 100 * float(text_score(drawn["clip"], texts).mean())
            scores["r_precision_clip"] = self._r_precision(drawn["clip"], texts)
        return scores

    def _captioned(self, name: str, scorer: Scorer, views: Views) -> dict[str, float]:
        features = scorer.view(views)
        pictures, texts = scorer.pictures(features), scorer.texts(self.texts)
        scores = {
            f"text_score_{name}": float(text_score(pictures, texts).double().mean()),
            f"r_precision_{name}": self._r_precision(pictures, texts),
        }
        accuracy = scorer.accuracy(features, self.asked.columns)
        return scores | {f"{factor}_accuracy_{name}": share for factor, share in accuracy.items()}

    def _r_precision(self, pictures: Tensor, texts: Tensor) -> float:
        return float(retrieved(pictures, texts, self.captions, choices=self.trial.choices).double().mean())

    def _fidelity(self, pipe: Pipeline) -> dict[str, float]:
        """PSNR, SSIM and use of the codes of the image tokenizer."""
        tokenizer = pipe.model.image_tokenizer
        pixels = torch.cat(list(_batches(self.asked.pixels)))
        decoded = torch.cat(list(self._pixels(torch.cat([tokenizer.encode(one) for one in pixels.split(64)]), pipe)))
        return reconstruction_quality(tokenizer, self.asked.pixels) | {"ssim": structural_similarity(decoded, pixels)}


def _views(features: dict[str, Tensor]) -> Views:
    return Views(features["final"], features["middle"])


def _batches(pictures: Any) -> Iterator[Tensor]:
    return (to_pixels(pictures[start : start + 64]) for start in range(0, len(pictures), 64))


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
