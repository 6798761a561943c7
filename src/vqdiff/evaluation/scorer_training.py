"""Train the scorers: contrastive heads and probes on frozen features."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from vqdiff.data import HELD_OUT, ImageSet, check_share, load
from vqdiff.data.rows import captioned
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.images import batches
from vqdiff.metrics import retrieved
from vqdiff.metrics.features import EfficientNetFeatures, EfficientNetLite0, file_hash
from vqdiff.model import save_component
from vqdiff.model.finding import find_part
from vqdiff.scorer import Probe, Scorer, ScorerConfig, mean_states
from vqdiff.text import TextEncoder

_CHOICES = 100
"""Captions that R-precision chooses among, where there are so many."""


@dataclass(frozen=True)
class Head:
    """How one scorer is trained: its features, contrastive loss and seed."""

    view: Literal["final", "middle"]
    loss: Literal["softmax", "sigmoid"]
    seed: int
    hidden: int = 512


@dataclass(frozen=True)
class ScorerTraining:
    """The settings of ``vqdiff train scorer``."""

    data: str | Path
    output: Path
    text_encoder: Path
    """A text encoder, or a model whose encoder to use, as `find_part` takes it; the scores need that of "emoji"."""
    heads: dict[str, Head]
    """One scorer per head: one for choosing settings, another for reporting the results."""
    probes: dict[str, Probe] = field(default_factory=dict)
    image_size: int = 128
    train: str = "train"
    held_out: tuple[str, ...] = ("test_style", "test_comp", "test_concept")
    validation: float = HELD_OUT
    """The share of the images that is the split ``test``, if the set has no other split than ``train``."""
    epochs: int = 25
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        check_share(self.validation)


@dataclass(frozen=True)
class FeatureSet:
    """The frozen features of one split: of the images, and of every distinct caption."""

    pictures: ImageSet
    views: EfficientNetFeatures
    captions: list[list[int]]
    """Rows of ``texts`` for each image."""
    texts: Tensor

    @classmethod
    def of(cls, pictures: ImageSet, network: EfficientNetLite0, encoder: TextEncoder) -> FeatureSet:
        """Compute the features of a split."""
        pictures = captioned(pictures)
        texts = sorted({text for row in pictures.captions for text in row})
        number = {text: index for index, text in enumerate(texts)}
        views = [network(pixels) for pixels in batches(pictures.pixels)]
        return cls(
            pictures,
            EfficientNetFeatures(*(torch.cat(parts) for parts in zip(*views, strict=True))),
            [[number[text] for text in row] for row in pictures.captions],
            mean_states(encoder, texts),
        )


def train_scorers(config: ScorerTraining) -> None:
    """Train every head of ``config`` on the train split and write ``output/<head>`` with its held-out accuracy.

    Takes minutes on two cores: the frozen features are computed once for all heads.

    Raises InputError for missing data, an unknown probe column, or an output that exists.
    """
    for name in config.heads:
        if (config.output / name).exists():
            raise InputError(f"{config.output / name} exists: choose another output")
    folder = find_part(config.text_encoder, "text_encoder")
    network, encoder, text_hash = EfficientNetLite0(), TextEncoder(folder), file_hash(folder / "model.safetensors")
    sets = dict[str, FeatureSet]()
    for split in (config.train, *config.held_out):
        print(f"features: {split}", flush=True)
        pictures = load(config.data, split, config.image_size, validation=config.validation)
        sets[split] = FeatureSet.of(pictures, network, encoder)
        for probe in config.probes.values():
            for column in (probe.column, probe.only):
                if column is not None and column not in sets[split].pictures.columns:
                    raise InputError(f"the data has no column {column!r} for a probe")
    for name, head in config.heads.items():
        scorer = _train(config, head, sets[config.train], text_hash)
        quality = {split: _quality(scorer, one) for split, one in sets.items()}
        folder = config.output / name
        save_component(scorer, folder, torch.float16)
        card = {
            "trained_on": f"the split {config.train!r} of {Path(config.data).name}",
            "loss": head.loss,
            "picture_features": f"{network.name} {network.fingerprint}, {head.view}",
            "quality": quality,
        }
        with atomic_path(folder / "card.json") as path:
            path.write_text(json.dumps(card, indent=2) + "\n")
        print(f"{folder}: {json.dumps(quality, indent=2)}", flush=True)


def _train(config: ScorerTraining, head: Head, data: FeatureSet, text_hash: str) -> Scorer:
    torch.manual_seed(head.seed)
    random = np.random.default_rng(head.seed)
    features = data.views.final if head.view == "final" else data.views.middle
    scorer = Scorer(
        ScorerConfig(
            head.view,
            features.shape[1],
            data.texts.shape[1],
            config.probes,
            text_hash,
            hidden=head.hidden,
        )
    )
    scorer.measure(features)
    labels = {name: probe.labels(data.pictures.columns) for name, probe in config.probes.items()}
    steps = max(1, config.epochs * len(features) // config.batch_size)
    optimizer = torch.optim.AdamW(scorer.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps)
    weights, start = data.pictures.weights, time.monotonic()
    for step in range(1, steps + 1):
        rows = random.choice(len(features), config.batch_size, p=weights)
        chosen = torch.tensor([data.captions[row][random.integers(len(data.captions[row]))] for row in rows])
        batch = features[torch.from_numpy(rows)]
        similarity = scorer.pictures(batch) @ scorer.texts(data.texts[chosen]).T
        loss = _contrastive(scorer, similarity, chosen, head.loss)
        for name, classes in labels.items():
            loss = loss + 0.3 * cross_entropy(scorer.probe(name, batch), classes[rows], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {float(loss.detach()):.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return scorer.eval().requires_grad_(False)


def _contrastive(scorer: Scorer, similarity: Tensor, captions: Tensor, kind: str) -> Tensor:
    """The contrastive loss of images and captions; equal captions of other images are ignored."""
    logits = scorer.temperature.exp() * similarity
    own = torch.eye(len(captions), dtype=torch.bool)
    equal = (captions[:, None] == captions) & ~own
    if kind == "softmax":
        logits = logits.masked_fill(equal, -torch.inf)
        right = torch.arange(len(captions))
        return (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
    signed = torch.where(own, 1.0, -1.0) * (logits + scorer.bias)
    return -logsigmoid(signed).masked_fill(equal, 0).sum(1).mean()


@torch.no_grad()
def _quality(scorer: Scorer, data: FeatureSet) -> dict[str, Any]:
    """R-precision and mean cosine with every image's first caption, and the accuracy of every probe."""
    features = scorer.view(data.views)
    first, captions = [row[0] for row in data.captions], [row[0] for row in data.pictures.captions]
    pictures, texts = scorer.pictures(features), scorer.texts(data.texts[first])
    quality = dict[str, Any](pictures=len(features), choices=min(_CHOICES, len(set(captions))))
    if quality["choices"] > 1:
        right = retrieved(pictures, texts, captions, choices=quality["choices"])
        quality["r_precision"] = round(float(right.float().mean()), 4)
    quality["text_score"] = round(float((pictures * texts).sum(1).mean()), 4)
    accuracy = scorer.accuracy(features, data.pictures.columns)
    return quality | {f"{name}_accuracy": round(value, 4) for name, value in accuracy.items()}
