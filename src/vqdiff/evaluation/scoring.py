"""Images → scores: the networks of a trial and all that is computed from their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vqdiff.data import ImageSet
from vqdiff.evaluation.trial import Trial
from vqdiff.foundation.images import batches
from vqdiff.metrics import (
    diversity,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    retrieved,
    text_score,
)
from vqdiff.metrics.features import CLIP, EfficientNetFeatures, EfficientNetLite0, Inception, Network
from vqdiff.model.components import fingerprint
from vqdiff.scorer import Scorer, load_scorer, mean_states, scorer_text_encoder, scorers_folder


class Scoring:
    """The networks of a trial, and the scores of images generated from the captions of ``wanted``."""

    def __init__(self, trial: Trial, wanted: ImageSet, reference: ImageSet) -> None:
        self.trial, self.wanted = trial, wanted
        self.captions = [texts[0] for texts in wanted.captions]
        self.network = EfficientNetLite0()
        self.folders = {
            Path(name).name: found if (found := scorers_folder() / name).is_dir() else Path(name)
            for name in trial.scorers
        }
        self.scorers = {name: load_scorer(folder) for name, folder in self.folders.items()}
        self.texts = mean_states(scorer_text_encoder(*self.scorers.values()), self.captions)
        self.inception = Inception(trial.inception) if trial.inception else None
        self.clip = CLIP(trial.clip) if trial.clip else None
        self.clip_texts = self.clip.texts(self.captions) if self.clip else None
        self.reference_pixels = reference.pixels

    @cached_property
    def real(self) -> dict[str, Tensor]:
        """Features of the real images."""
        return self.features(batches(self.reference_pixels))

    @property
    def networks(self) -> list[EfficientNetLite0 | Network]:
        """All networks whose features are used."""
        return [self.network, *(one for one in (self.inception, self.clip) if one is not None)]

    @property
    def hashes(self) -> list[str]:
        """Hashes of the scorers."""
        return [fingerprint(folder) for folder in self.folders.values()]

    @torch.inference_mode()
    def features(self, pictures: Iterator[Tensor]) -> dict[str, Tensor]:
        """The features of every network for batches of pixels in [0, 1]."""
        parts = dict[str, list[Tensor]]()
        for pixels in pictures:
            seen = self.network(pixels)._asdict()
            if self.inception is not None:
                seen["inception"] = self.inception.features(pixels)
                seen["logits"] = self.inception.logits(pixels)
            if self.clip is not None:
                seen["clip"] = self.clip.features(pixels)
            for name, value in seen.items():
                parts.setdefault(name, []).append(value)
        return {name: torch.cat(values) for name, values in parts.items()}

    @torch.inference_mode()
    def scores(self, drawn: dict[str, Tensor]) -> dict[str, float]:
        """All scores of one image for each caption, in their order, from its `features`."""
        real = self.real
        scorer = next(iter(self.scorers.values()))
        near, far = (scorer.project(scorer.view(_views(one))) for one in (real, drawn))
        scores = {
            "fd_effnet": frechet_distance(near, far),
            "kd_effnet": kernel_distance(real["final"], drawn["final"])[0],
            **asdict(manifold(real["final"], drawn["final"])),
        }
        for name, one in self.scorers.items():
            scores |= self._captioned(name, one, _views(drawn))
        if self.inception is not None:
            scores["fid"] = frechet_distance(real["inception"], drawn["inception"])
            scores["kid"] = kernel_distance(real["inception"], drawn["inception"])[0]
            scores["inception_score"] = inception_score(drawn["logits"])[0]
        if self.clip_texts is not None:
            scores["clip_score"] = 100 * float(text_score(drawn["clip"], self.clip_texts).mean())
            scores["r_precision_clip"] = self._r_precision(drawn["clip"], self.clip_texts)
        return scores

    def diversity(self, runs: Sequence[dict[str, Tensor]]) -> list[float]:
        """How different the images of the same caption are in several runs, from their `features`."""
        return diversity([one["final"] for one in runs], self.captions)

    def _captioned(self, name: str, scorer: Scorer, views: EfficientNetFeatures) -> dict[str, float]:
        features = scorer.view(views)
        pictures, texts = scorer.pictures(features), scorer.texts(self.texts)
        scores = {
            f"text_score_{name}": float(text_score(pictures, texts).double().mean()),
            f"r_precision_{name}": self._r_precision(pictures, texts),
        }
        accuracy = scorer.accuracy(features, self.wanted.columns)
        if "role" in self.wanted.columns:
            role = self.wanted.columns["role"]
            accuracy["role"] = float((role[(pictures @ texts.T).argmax(1).numpy()] == role).mean())
        return scores | {f"{factor}_accuracy_{name}": share for factor, share in accuracy.items()}

    def _r_precision(self, pictures: Tensor, texts: Tensor) -> float:
        return float(retrieved(pictures, texts, self.captions, choices=self.trial.choices).double().mean())

    def left_out(self) -> dict[str, str]:
        """The probes whose columns the data lack: the name of the score, and the first missing column."""
        return {
            f"{factor}_accuracy_{name}": missing[0]
            for name, scorer in self.scorers.items()
            for factor, probe in scorer.config.probes.items()
            if (missing := [column for column in probe.columns if column not in self.wanted.columns])
        }

    def names(self) -> list[str]:
        """The names of the scores of images generated from captions."""
        names = ["fd_effnet", "kd_effnet", "precision", "recall", "density", "coverage"]
        names += ["diversity"] if len(self.trial.seeds) > 1 else []
        for name, scorer in self.scorers.items():
            factors = [*scorer.labels(self.wanted.columns), *(["role"] if "role" in self.wanted.columns else [])]
            names += [f"text_score_{name}", f"r_precision_{name}", *(f"{factor}_accuracy_{name}" for factor in factors)]
        names += ["fid", "kid", "inception_score"] if self.inception else []
        return names + (["clip_score", "r_precision_clip"] if self.clip else [])


def _views(features: dict[str, Tensor]) -> EfficientNetFeatures:
    return EfficientNetFeatures(features["final"], features["middle"])
