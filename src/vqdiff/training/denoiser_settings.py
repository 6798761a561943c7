"""The settings of ``vqdiff train diffusion`` and ``vqdiff train guidance``, and the model that they begin with."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from vqdiff.data import HELD_OUT, Rows, Views, check_share
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.interfaces import ImageTokenizer
from vqdiff.model import Card, Model
from vqdiff.model.finding import find_model, find_part
from vqdiff.sampling import SamplingSettings
from vqdiff.text import NullCondition, NullKind, read_text_encoder
from vqdiff.training.loop import RunConfig
from vqdiff.training.upload import HubUpload


@dataclass(frozen=True)
class DenoiserSizes:
    """The free sizes of a modern denoiser; the others follow from the image tokenizer and the condition."""

    width: int = 320
    """Of the transformer's positions."""
    depth: int = 8
    """Transformer blocks."""
    heads: int = 5
    """Attention heads; a divisor of ``width``."""
    patch_size: int = 2
    """Side of the square of tokens that are one position of the transformer."""
    token_width: int = 256
    """Of the embedding of a token, before the tokens of a patch are joined."""


@dataclass(frozen=True)
class ClassicSizes:
    """The free sizes of the published network; the default is the base model's."""

    width: int = 1024
    depth: int = 19
    heads: int = 16
    mlp_ratio: int = 4
    conv_mlp: bool = False


@dataclass(frozen=True)
class Noise:
    """The schedule: number of steps and the end points of its cumulative keep and mask probabilities.

    The rest up to 1 is the share of replaced tokens.
    """

    num_steps: int = 100
    """T."""
    alpha_bar: tuple[float, float] = (0.99999, 9e-6)
    """The probability that a token is kept, at t = 1 and at t = T."""
    gamma_bar: tuple[float, float] = (9e-6, 0.99999)
    """The probability that it is masked."""

    def schedule(self, num_codes: int) -> Schedule:
        """Return the schedule for a codebook of so many codes."""
        return Schedule.linear(self.num_steps, num_codes, self.alpha_bar, self.gamma_bar)


@dataclass(frozen=True)
class Objective:
    """The loss: the variational bound and the auxiliary loss of VQ-Diffusion (docs/equations.md, 6)."""

    aux_weight: float = 0.1
    """λ of the auxiliary cross-entropy on x0; published: 5e-4."""
    adaptive: bool = True
    """Whether λ is larger at small t."""
    mask_weight: tuple[float, float] = (1.0, 1.0)
    """Factors for masked and for visible positions."""
    importance: bool = False
    """Draw t in proportion to the root mean square of its recent losses, as published, instead of uniformly."""


@dataclass(frozen=True)
class Routing:
    """Training on a part of the positions, drawn anew for each image, of which the others skip the middle blocks.

    That is TREAD (2501.04765); for modern denoisers of at least four blocks.
    """

    share: float = 0.0
    """Of the positions that skip all blocks but the first two and the last; 0 is off."""
    until: float = 0.9
    """The share of the run, from its beginning, with routing; the rest trains the network as it is used."""

    def __post_init__(self) -> None:
        if not (0 <= self.share < 1 and 0 <= self.until <= 1):
            raise InputError(
                f"routing has share {self.share} and until {self.until}: give shares from 0 to 1, the first below 1"
            )

    def count(self, denoiser: object) -> int:
        """Return how many positions of a denoiser pass through all blocks; raises InputError if it has no routing."""
        if not isinstance(denoiser, ModernDenoiser) or denoiser.config.depth < 4:
            raise InputError("routing.share is for modern denoisers of at least four blocks: leave it out")
        return max(1, round(denoiser.num_positions * (1 - self.share)))


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """The settings of any training of a denoiser."""

    data: str | Path
    """A set of images, or the folder that ``vqdiff data tokens`` made from one."""
    output: Path
    run: RunConfig
    views: Views = field(default_factory=Views)
    """The views of the images, if they are not tokenized yet."""
    loss: Objective = field(default_factory=Objective)
    routing: Routing = field(default_factory=Routing)
    drop: float = 0.1
    """Share of captions or labels replaced by the null condition."""
    emphasis: dict[str, dict[str, float]] = field(default_factory=dict)
    """Column → value → factor: how much more or less often than the set's weights say its rows are sampled."""
    held_out: str = ""
    """The split to measure on; by default ``validation`` if there is one, else ``test``."""
    validation: float = HELD_OUT
    """The share of the images that is held out, if the set has no other split than train and is not tokenized yet."""
    evaluate: int = 256
    """The largest number of held-out images to measure on."""
    prompts: tuple[str, ...] = ()
    """Prompts of the sample grid, two images each; by default held-out captions or the first labels."""
    compile: bool | Literal["auto"] = "auto"
    """Whether to compile the denoiser: "auto" only for runs that it makes shorter."""
    recompute: bool = False
    """Recompute the activations inside the denoiser's blocks instead of storing them: less memory, a third slower."""
    hub: HubUpload | None = None
    """Where to upload the finished model, if anywhere; whether that is possible is checked before the run."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InputError(f"drop is {self.drop}: give a share of at least 0 and below 1")
        check_share(self.validation)


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(DenoiserTraining):
    """The settings of ``vqdiff train diffusion``: a model to continue from, or the description of a new one."""

    start: Path | None = None
    """A trained model to continue from, as `find_model` takes it, instead of all fields below but the last three."""
    image_tokenizer: Path | None = None
    """A trained tokenizer, or a model whose tokenizer to use, as `find_part` takes it."""
    condition: Literal["text", "class", "none"] = "text"
    text_encoder: Path | None = None
    """Folder of a transformers text encoder, or a model whose encoder to use; for the condition "text"."""
    max_tokens: int = 32
    null: NullKind = "learnable"
    """∅ of the condition "text"; that of "class" is always learned."""
    model: DenoiserSizes = field(default_factory=DenoiserSizes)
    classic: ClassicSizes | None = None
    """Train the published network instead of ``model``."""
    noise: Noise | None = None
    """By default that of ``start``, which may be trained further with another one of as many steps."""
    sampling: SamplingSettings | None = None
    """The finished model's default settings, also used for the sample grid; by default those of ``start``."""
    card: Card | None = None
    """The finished model's card; its measured quality is added, and the licences and data of ``start``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is None and self.image_tokenizer is None:
            raise InputError("set image_tokenizer for a new model, or start to continue from a trained model")
        described = {"image_tokenizer", "condition", "text_encoder", "max_tokens", "null", "model", "classic"}
        for key in fields(self) if self.start is not None else ():
            if key.name in described and getattr(self, key.name) != _default(key):
                raise InputError(f"start continues from a trained model, which has its own {key.name}: leave that out")

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the image tokenizer."""
        return find_part(cast("Path", self.start or self.image_tokenizer), "image_tokenizer")

    def assemble(self, rows: Rows, image_tokenizer: ImageTokenizer) -> Model:
        """The model to continue from, or a new denoiser with the trained parts."""
        if self.start is not None:
            model = _unmeasured(Model.load(find_model(self.start)))
            if self.drop and model.text_encoder is not None and model.null_condition is None:
                raise InputError(
                    f"{self.start} has no null condition to replace captions by: set drop = 0, or give it one with "
                    "`vqdiff train guidance`"
                )
            for part in filter(None, (model.denoiser, model.null_condition)):
                part.requires_grad_(True)
            return replace(
                model,
                schedule=self._schedule_from(model.schedule),
                sampling=self.sampling or model.sampling,
                card=_further(model.card, self.card, self.data),
                class_names=_class_names(rows, model.num_classes),
            )
        if (self.condition == "text") != (self.text_encoder is not None):
            needs = "needs a" if self.text_encoder is None else "takes no"
            raise InputError(f"condition = {self.condition!r} {needs} text_encoder")
        encoder = None
        if self.text_encoder is not None:
            encoder = read_text_encoder(find_part(self.text_encoder, "text_encoder"), self.max_tokens)
        if self.condition == "class":
            rows.require_labels()
        noise = self.noise or Noise()
        schedule = noise.schedule(image_tokenizer.num_codes)
        common: dict[str, Any] = {
            "num_codes": image_tokenizer.num_codes,
            "num_steps": noise.num_steps,
            "grid_size": image_tokenizer.grid_size,
            "text_width": encoder.width if encoder is not None else None,
            "num_classes": rows.num_classes if self.condition == "class" else None,
        }
        torch.manual_seed(self.run.seed)
        if self.classic is None:
            denoiser = ModernDenoiser(ModernConfig(**common, **vars(self.model)))
        else:
            side: dict[str, Any] = {
                "position_rows": image_tokenizer.grid_size,
                "position_columns": image_tokenizer.grid_size,
            }
            labelled = self.condition == "class"
            denoiser = ClassicDenoiser(ClassicConfig(**common, **vars(self.classic), **side, null_class=labelled))
        null = NullCondition.of(self.null, encoder) if encoder is not None else None
        return Model(
            schedule,
            denoiser,
            image_tokenizer,
            encoder,
            null,
            self.sampling or SamplingSettings(),
            self.card or Card(),
            class_names=_class_names(rows, common["num_classes"]),
        )

    def _schedule_from(self, schedule: Schedule) -> Schedule:
        if (noise := self.noise) is None:
            return schedule
        if noise.num_steps != schedule.num_steps:
            raise InputError(
                f"noise.num_steps is {noise.num_steps}, and the times of {self.start} are 1 to {schedule.num_steps}: "
                f"set noise.num_steps = {schedule.num_steps}"
            )
        return noise.schedule(schedule.num_codes)


@dataclass(frozen=True, kw_only=True)
class GuidanceTraining(DenoiserTraining):
    """The settings of ``vqdiff train guidance``, which gives a trained model a null condition (paper, section 3.1)."""

    start: Path
    """The model to continue from, as `find_model` takes it; a new null condition replaces that of the model."""
    null: NullKind = "learnable"
    freeze: bool = False
    """Train only the null condition and leave the denoiser unchanged."""
    card: Card | None = None
    """The finished model's card, as for ``vqdiff train diffusion``."""

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the image tokenizer."""
        return find_part(self.start, "image_tokenizer")

    def assemble(self, rows: Rows, image_tokenizer: ImageTokenizer) -> Model:
        """The trained model with a new null condition."""
        del rows, image_tokenizer
        model = _unmeasured(Model.load(find_model(self.start)))
        if model.text_encoder is None and model.num_classes is None:
            raise InputError(f"start: {self.start} has no text or class condition, so there is nothing to drop")
        if self.freeze and (model.text_encoder is None or self.null != "learnable"):
            raise InputError("freeze leaves nothing to train: it needs a text model, and null = 'learnable'")
        torch.manual_seed(self.run.seed)
        if model.text_encoder is not None:
            model.null_condition = NullCondition.of(self.null, model.text_encoder)
        elif isinstance(model.denoiser, ClassicDenoiser):
            model.denoiser = model.denoiser.with_null_class()
        model.denoiser.requires_grad_(not self.freeze)
        return replace(model, card=_further(model.card, self.card, self.data))


def _unmeasured(model: Model) -> Model:
    """The model without its measurement, and without the reveal curve that needs it: other weights have another."""
    presets = {
        name: {key: value for key, value in changes.items() if (key, value) != ("curve", "measured")}
        for name, changes in model.presets.items()
    }
    sampling = replace(model.sampling, curve="linear") if model.sampling.curve == "measured" else model.sampling
    return replace(model, masked_nll=(), sampling=sampling, presets=presets)


def _class_names(rows: Rows, num_classes: int | None) -> tuple[str, ...]:
    """The names of a model's labels, if it has labels and they have names."""
    return rows.class_names if len(rows.class_names) == num_classes else ()


def _further(base: Card, own: Card | None, data: str | Path) -> Card:
    """The card of a model trained further: its own name and data, then the data and the licences of both."""
    own, unnamed = own or Card(), Card().name
    name = base.name if base.name == unnamed or base.name.endswith(_FURTHER) else base.name + _FURTHER
    trained_on = own.trained_on or str(data)
    if base.trained_on and base.trained_on != trained_on:
        trained_on = f"{trained_on}; before that: {base.trained_on}"
    return replace(
        own,
        name=name if own.name == unnamed else own.name,
        licenses=base.licenses | own.licenses,
        trained_on=trained_on,
        origin=base.origin | own.origin,
        notes=tuple(dict.fromkeys([*base.notes, *own.notes])),
    )


_FURTHER = ", trained further"


def _default(key: Field[Any]) -> object:
    return key.default_factory() if key.default_factory is not MISSING else key.default
