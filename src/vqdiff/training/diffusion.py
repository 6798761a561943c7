"""Stage two: train the denoiser and its null condition on tokens and captions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vqdiff.data import PictureSet, load
from vqdiff.denoisers import ModernConfig, ModernDenoiser
from vqdiff.diffusion import Schedule, diffusion_loss, q_sample
from vqdiff.errors import InputError
from vqdiff.files import atomic_path
from vqdiff.model import Card, Model, load_component
from vqdiff.pictures import sheet, to_pixels
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import SamplingSettings
from vqdiff.shapes import Float
from vqdiff.text import AnyTextEncoder, NullCondition, NullKind, TextEncoder
from vqdiff.training.loop import RunConfig, train
from vqdiff.training.tokenizer import reconstruction_quality


@dataclass(frozen=True)
class DenoiserSizes:
    """The sizes of a modern denoiser that are free; the others follow from the image tokenizer and the text encoder."""

    width: int = 320
    depth: int = 8
    heads: int = 5
    patch_size: int = 2
    token_width: int = 256


@dataclass(frozen=True)
class Noise:
    """The schedule: number of steps and the end points of its cumulative keep and mask probabilities."""

    num_steps: int = 100
    alpha_bar: tuple[float, float] = (0.99999, 9e-6)
    gamma_bar: tuple[float, float] = (9e-6, 0.99999)


@dataclass(frozen=True, kw_only=True)
class ConditionalTraining:
    """What all training of a denoiser with a null condition needs."""

    data: Path
    output: Path
    run: RunConfig
    aux_weight: float = 0.1
    """λ of the auxiliary cross-entropy on x0."""
    adaptive: bool = True
    null: NullKind = "learnable"
    drop: float = 0.1
    """Share of captions replaced by the null condition."""
    emphasis: dict[str, dict[str, float]] = field(default_factory=dict)
    """Column → value → factor: how much more or less often than by the set's own weights its rows are drawn."""
    held_out: str = "test"
    evaluate: int = 256
    """Held-out pictures whose loss is measured at every preview."""
    prompts: tuple[str, ...] = ("a red apple",)
    """What the sample grid shows, one column a prompt."""
    compile: bool = True


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(ConditionalTraining):
    """Everything ``vqdiff train diffusion`` needs."""

    image_tokenizer: Path
    """Folder of a trained tokenizer."""
    text_encoder: Path
    """Folder of a transformers text encoder."""
    max_tokens: int = 32
    model: DenoiserSizes = field(default_factory=DenoiserSizes)
    noise: Noise = field(default_factory=Noise)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    """The finished model's default settings, used for the sample grid too."""
    card: Card = field(default_factory=Card)
    """What the finished model says of itself; its measured quality is added."""

    def assemble(self) -> Model:
        """A new denoiser beside the trained parts."""
        image_tokenizer = load_component(self.image_tokenizer)
        encoder = TextEncoder(self.text_encoder, self.max_tokens)
        noise = self.noise
        schedule = Schedule.linear(noise.num_steps, image_tokenizer.num_codes, noise.alpha_bar, noise.gamma_bar)
        torch.manual_seed(self.run.seed)
        denoiser = ModernDenoiser(
            ModernConfig(
                num_codes=image_tokenizer.num_codes,
                num_steps=noise.num_steps,
                grid_size=image_tokenizer.grid_size,
                text_width=encoder.width,
                **vars(self.model),
            )
        )
        null = NullCondition.of(self.null, encoder)
        return Model(schedule, denoiser, image_tokenizer, encoder, null, self.sampling, self.card)


@dataclass(frozen=True, kw_only=True)
class GuidanceTraining(ConditionalTraining):
    """Everything ``vqdiff train guidance`` needs: a trained model gains a null condition (paper, section 3.1)."""

    start: Path
    """Folder of the model to go on from; its own null condition, if any, is replaced by a new one."""
    freeze: bool = False
    """Train the null condition alone and leave the denoiser as it is."""

    def assemble(self) -> Model:
        """The trained model with a new null condition."""
        model = Model.load(self.start)
        if model.text_encoder is None:
            raise InputError(f"start: {self.start} draws no text, so there is no caption to drop")
        if self.freeze and self.null != "learnable":
            raise InputError(f"freeze leaves nothing to train with null = {self.null!r}: choose 'learnable'")
        torch.manual_seed(self.run.seed)
        model.null_condition = NullCondition.of(self.null, model.text_encoder)
        model.denoiser.requires_grad_(not self.freeze)
        return model


class Conditional(nn.Module):
    """A denoiser and the null condition trained with it."""

    def __init__(self, denoiser: nn.Module, null: NullCondition) -> None:
        super().__init__()
        self.denoiser, self.null = denoiser, null


class Captions:
    """The captions of every row and their text features, kept without padding and in half precision."""

    def __init__(
        self, captions: Sequence[Sequence[str]], encoder: AnyTextEncoder, features: Mapping[str, Tensor] | None = None
    ) -> None:
        texts = sorted({text for row in captions for text in row}, key=lambda text: (len(text), text))
        number = {text: index for index, text in enumerate(texts)}
        self.rows = [[number[text] for text in row] for row in captions]
        self.max_tokens = encoder.max_tokens
        self.features = features or self._encode(texts, encoder)
        """``values`` (all tokens of all texts, C) and ``starts`` (number of texts + 1)."""

    @staticmethod
    def _encode(texts: Sequence[str], encoder: AnyTextEncoder, batch_size: int = 256) -> dict[str, Tensor]:
        values, lengths = list[Tensor](), [torch.zeros(1, dtype=torch.int64)]
        for start in range(0, len(texts), batch_size):
            with torch.autocast(encoder.model.device.type, torch.bfloat16):
                features = encoder.encode(texts[start : start + batch_size])
            present = features.ne(0).any(-1)
            values.append(features[present].half())
            lengths.append(present.sum(1))
        return {"values": torch.cat(values), "starts": torch.cat(lengths).cumsum(0)}

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator) -> Float[Tensor, "B N C"]:
        """Features of one caption, drawn uniformly, of each of ``rows``."""
        chosen = torch.tensor([self.rows[row][random.integers(len(self.rows[row]))] for row in rows])
        values, starts = self.features["values"], self.features["starts"]
        index = starts[chosen, None] + torch.arange(self.max_tokens)
        present = index < starts[chosen + 1, None]
        return values[index.clamp_max(len(values) - 1)].float() * present[..., None]


class DiffusionTask:
    """Predict x0 from x_t under a caption, sometimes under the null condition."""

    def __init__(self, config: DiffusionTraining | GuidanceTraining) -> None:
        self.config, self.parts = config, config.assemble()
        encoder, null = self.parts.text_encoder, self.parts.null_condition
        assert encoder is not None  # a model that is trained here draws captions,
        assert null is not None  # and learns to be guided
        self.encoder, self.image_tokenizer, self.schedule = encoder, self.parts.image_tokenizer, self.parts.schedule
        size = self.image_tokenizer.config.image_size
        train_set, test_set = load(config.data, "train", size), load(config.data, config.held_out, size)
        self.weights, self.test_pixels = emphasised(train_set, config.emphasis), test_set.pixels
        self.tokens, self.captions = self._prepare("train", train_set)
        test_tokens, test_captions = self._prepare("held-out", test_set)
        rows = np.linspace(0, len(test_tokens) - 1, min(config.evaluate, len(test_tokens))).astype(int)
        self.test_tokens = test_tokens[rows]
        self.test_features = test_captions.draw(rows, np.random.default_rng(0))
        self.model = Conditional(self.parts.denoiser, null)
        self.denoise = torch.compile(self.parts.denoiser) if config.compile else self.parts.denoiser

    def _prepare(self, name: str, pictures: PictureSet) -> tuple[Tensor, Captions]:
        """Tokens and text features of a split, computed once and kept beside the run."""
        file = self.config.output / f"{name}.safetensors"
        origin = self._origin(pictures)
        if file.exists():
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("origin") == origin:
                    tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
                    return tensors.pop("tokens"), Captions(pictures.captions, self.encoder, tensors)
        print(f"preparing tokens and text features: {name}", flush=True)
        batches = (pictures.pixels[start : start + 64] for start in range(0, len(pictures.pixels), 64))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.config.run.bf16):
            tokens = torch.cat([self.image_tokenizer.encode(to_pixels(batch)) for batch in batches])
        captions = Captions(pictures.captions, self.encoder)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as path:
            save_file({"tokens": tokens, **captions.features}, path, {"origin": origin})
        return tokens, captions

    def _origin(self, pictures: PictureSet) -> str:
        """A digest of all that tokens and text features are made from."""
        digest = hashlib.sha256(repr((pictures.captions, self.encoder.max_tokens)).encode())
        for picture in pictures.pixels:
            digest.update(picture.tobytes())
        for network in (self.image_tokenizer, self.encoder.model):
            for name, value in network.state_dict().items():
                digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        random = np.random.default_rng((self.config.run.seed, step))
        noise = torch.Generator().manual_seed(int(random.integers(2**63)))
        size = self.config.run.batch_size
        rows = random.choice(len(self.tokens), size, p=self.weights)
        drop = torch.from_numpy(random.random(size) < self.config.drop)
        # One t in each of ``size`` equal slices of 1..T: the same mean with less variance.
        slices = (torch.arange(size) + torch.rand(size, generator=noise)) / size
        t = (slices * self.schedule.num_steps).long() + 1
        features = self.captions.draw(rows, random)
        condition = torch.where(drop[:, None, None], self.model.null(size), features)
        losses, metrics = self._losses(self.denoise, self.tokens[rows], t, condition, noise)
        return losses.total.mean() / self.tokens.shape[1], metrics

    def _losses(
        self, denoise: Any, x0: Tensor, t: Tensor, condition: Tensor, noise: torch.Generator
    ) -> tuple[Any, dict[str, Tensor]]:
        xt = q_sample(self.schedule, x0, t, generator=noise)
        logits = denoise(xt, t, condition).float()
        losses = diffusion_loss(
            self.schedule, logits, x0, xt, t, aux_weight=self.config.aux_weight, adaptive=self.config.adaptive
        )
        with torch.no_grad():
            masked = xt == self.schedule.num_codes
            entropy = nn.functional.cross_entropy(logits[masked], x0[masked])
        return losses, {"masked_nll": entropy}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        size = len(self.test_tokens)
        t = (torch.arange(size) * self.schedule.num_steps // size + 1)[torch.randperm(size, generator=_noise(0))]
        values = dict[str, float]()
        for name, condition in ("", self.test_features), ("_null", model.null(size)):
            _, metrics = self._losses(model.denoiser, self.test_tokens, t, condition, _noise(1))
            values |= {f"held_out_{key}{name}": float(value) for key, value in metrics.items()}
        return values

    def preview(self, model: Any, path: Path) -> None:
        prompts = self.config.prompts
        images = Pipeline(self._with(model))(prompts, num_images=2)
        with atomic_path(path) as temporary:
            sheet(images, columns=6).save(temporary)

    def save(self, model: Any, folder: Path) -> None:
        quality = reconstruction_quality(self.image_tokenizer, self.test_pixels) | self.evaluate(model)
        finished = replace(self._with(model), card=replace(self.parts.card, quality=quality))
        finished.save(folder / "model", torch.float16)

    def _with(self, model: Any) -> Model:
        return replace(self.parts, denoiser=model.denoiser, null_condition=model.null)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state


def emphasised(pictures: PictureSet, emphasis: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
    """The sampling weights of ``pictures`` with the factors of ``emphasis`` applied, summing to 1."""
    weights = pictures.weights.copy()
    for column, factors in emphasis.items():
        if column not in pictures.columns:
            raise InputError(f"emphasis: no column {column!r} in the data; there are {', '.join(pictures.columns)}")
        weights *= [factors.get(str(value), 1.0) for value in pictures.columns[column]]
    return weights / weights.sum()


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train_diffusion(config: DiffusionTraining | GuidanceTraining, *, resume: bool = False) -> None:
    """Train, from nothing or from a trained model, and write the model folder ``output/model``.

    See :func:`vqdiff.training.loop.train`.
    """
    train(lambda: DiffusionTask(config), config.run, config.output, resume=resume)
