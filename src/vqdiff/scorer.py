"""A scorer for drawings: whether an image matches a caption, and which style, gender and skin tone it shows.

Small heads on frozen EfficientNet-Lite0 and text-encoder features, trained only on the emoji set's train split. Its
numbers are neither CLIP score nor Inception FID, and are named accordingly; they compare models on this set only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import bf16_where_faster
from vqdiff.foundation.shapes import Float, Int
from vqdiff.metrics import principal_directions
from vqdiff.metrics.features import EfficientNetFeatures, EfficientNetLite0, file_hash
from vqdiff.model import load_component
from vqdiff.model.finding import bundled
from vqdiff.text import TextEncoder


@dataclass(frozen=True)
class Probe:
    """A factor to classify: a column, its classes as text, and a column that says where it applies."""

    column: str
    classes: tuple[str, ...]
    only: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the factor needs."""
        return (self.column,) if self.only is None else (self.column, self.only)

    def labels(self, columns: Mapping[str, NDArray[Any]]) -> Int[Tensor, "N"]:
        """The class of every row, -1 where the factor does not apply."""
        number = {name: index for index, name in enumerate(self.classes)}
        labels = torch.tensor([number.get(str(value), -1) for value in columns[self.column]])
        if self.only is not None:
            labels[~torch.tensor(columns[self.only].astype(bool))] = -1
        return labels


@dataclass(frozen=True)
class ScorerConfig:
    """Sizes of a scorer, and the factors, such as ``"style"``, that it classifies."""

    view: Literal["final", "middle"]
    picture_width: int
    text_width: int
    probes: dict[str, Probe]
    text_encoder: str
    """Hash of the weights of the text encoder that the scorer was trained with."""
    hidden: int = 512
    width: int = 256
    components: int = 64
    """Number of principal directions in which the Fréchet distance is computed: far fewer than images, since its
    bias grows with their ratio."""


class Scorer(nn.Module):
    """Two heads that map to the same unit vectors, a probe for every factor, and the principal directions."""

    Config = ScorerConfig
    centre: Tensor
    scale: Tensor
    directions: Tensor

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        self.picture_head = _head(config.picture_width, config.hidden, config.width)
        self.text_head = _head(config.text_width, config.hidden, config.width)
        self.temperature = nn.Parameter(torch.tensor(2.5))  # its logarithm
        self.bias = nn.Parameter(torch.tensor(-8.0))
        self.probes = nn.ModuleDict(
            {name: _head(config.picture_width, 128, len(probe.classes)) for name, probe in config.probes.items()}
        )
        for name, shape in {
            "centre": (config.picture_width,),
            "scale": (config.picture_width,),
            "directions": (config.components, config.picture_width),
        }.items():
            self.register_buffer(name, torch.zeros(shape))

    def measure(self, features: Float[Tensor, "N D"]) -> None:
        """Compute centre, scale and principal directions from the features of the training images."""
        self.centre.copy_(features.mean(0))
        self.scale.copy_(features.std(0) + 1e-3)
        self.directions.copy_(principal_directions(features, len(self.directions)))

    def view(self, views: EfficientNetFeatures) -> Float[Tensor, "B D"]:
        """Select the features that this scorer uses."""
        return views.final if self.config.view == "final" else views.middle

    def pictures(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Map images to unit vectors."""
        return nn.functional.normalize(self.picture_head((features - self.centre) / self.scale), dim=-1)

    def texts(self, means: Float[Tensor, "B C"]) -> Float[Tensor, "B E"]:
        """Map captions, as `mean_states`, to unit vectors."""
        return nn.functional.normalize(self.text_head(means), dim=-1)

    def probe(self, factor: str, features: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
        """Class scores of one factor."""
        return self.probes[factor]((features - self.centre) / self.scale)

    def labels(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Int[Tensor, "N"]]:
        """The classes of all rows, for every factor that has its columns and applies to any row."""
        probes = {factor: probe for factor, probe in self.config.probes.items() if set(probe.columns) <= set(columns)}
        labels = {factor: probe.labels(columns) for factor, probe in probes.items()}
        return {factor: classes for factor, classes in labels.items() if (classes >= 0).any()}

    def accuracy(self, features: Float[Tensor, "N D"], columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """The share of correctly classified images, for every factor in `labels`."""
        shares = dict[str, float]()
        for factor, labels in self.labels(columns).items():
            known = labels >= 0
            shares[factor] = float((self.probe(factor, features[known]).argmax(1) == labels[known]).double().mean())
        return shares

    def project(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B components"]:
        """Features along their principal directions."""
        return (features - self.centre) @ self.directions.T


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, outputs))


@torch.no_grad()
def mean_states(encoder: TextEncoder, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "B C"]:
    """The mean of each text's token features; of a text that is too long, of as much as fits."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    means = torch.empty(len(texts), encoder.width)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        with bf16_where_faster(encoder.model.device):
            states = encoder.encode([encoder.fit(texts[row]) for row in rows]).float()
        means[rows] = (states.sum(1) / states.ne(0).any(-1).sum(1, keepdim=True)).cpu()
    return means


def scorers_folder() -> Path:
    """The folder of the bundled scorers."""
    return Path(str(resources.files("vqdiff") / "evaluation" / "scorers"))


def load_scorer(folder: Path) -> Scorer:
    """Read a scorer that ``vqdiff train scorer`` wrote."""
    return load_component(folder, {"Scorer": Scorer})


def scorer_text_encoder(*scorers: Scorer) -> TextEncoder:
    """The bundled model's text encoder, which the scorers' text heads were trained on.

    Raises InputError if one was trained on another.
    """
    folder = bundled()["emoji"] / "text_encoder"
    known = file_hash(folder / "model.safetensors")
    if any(scorer.config.text_encoder != known for scorer in scorers):
        raise InputError(f"the scorer was trained with another text encoder than {folder}: train it again")
    return TextEncoder(folder)


class CaptionScore:
    """How well an image matches a text, by the bundled scorer ``emoji``: a cosine, in -1..1.

    Raises InputError if the extra ``eval`` is not installed.
    """

    def __init__(self) -> None:
        self.network = EfficientNetLite0()
        self.scorer = load_scorer(scorers_folder() / "emoji")
        self.encoder = scorer_text_encoder(self.scorer)

    @torch.inference_mode()
    def __call__(self, text: str, pixels: Float[Tensor, "1 3 H W"]) -> float:
        """Score an image with pixels in [0, 1]."""
        picture = self.scorer.pictures(self.scorer.view(self.network(pixels)))
        return float((picture * self.scorer.texts(mean_states(self.encoder, [text]))).double().sum())
