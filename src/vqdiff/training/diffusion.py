"""Stage two: train the denoiser, and its null condition, on tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor, nn

from vqdiff.data import HELD_OUT, Rows, TokenSet, Views, check_share, emphasised, held_out_split, load, tokenize
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.diffusion import DiffusionLoss, LossHistory, Schedule, diffusion_loss
from vqdiff.diffusion.schedule import draw_forward
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.images import sheet
from vqdiff.foundation.shapes import Float, Int
from vqdiff.interfaces import ImageTokenizer
from vqdiff.model import Card, Model, load_component
from vqdiff.model.finding import find_model, find_part
from vqdiff.model.model import class_names
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import SamplingSettings
from vqdiff.text import NullCondition, NullKind, literal, read_text_encoder
from vqdiff.training.conditions import encode_conditions
from vqdiff.training.loop import RunConfig, train
from vqdiff.training.resuming import data_fingerprint
from vqdiff.training.state import TrainingBatch
from vqdiff.training.tokenizer import HeldOut
from vqdiff.training.upload import HubUpload
from vqdiff.training.validation import Criterion

_FEW = 32
"""Measurements of held-out loss at least, however few images there are."""


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


class Conditional(nn.Module):
    """A denoiser and the null condition trained with it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.denoiser, self.null_condition, self.num_classes = model.denoiser, model.null_condition, model.num_classes

    def null(self, condition: Tensor) -> Tensor:
        """∅ for as many images as ``condition`` has: features, or the label ``num_classes``."""
        if self.null_condition is not None:
            return self.null_condition(len(condition))
        return torch.full_like(condition, self.num_classes or 0)


class DiffusionObjective(nn.Module):
    """The loss of x0 given x_t under a condition, sometimes the null condition."""

    second_moment: Tensor
    count: Tensor

    def __init__(self, parts: Model, config: Objective) -> None:
        super().__init__()
        self.model, self.config, self.schedule = Conditional(parts), config, parts.schedule
        for name, value in LossHistory(parts.schedule.num_steps).state_dict().items():
            self.register_buffer(name, value)

    def forward(
        self,
        x0: Int[Tensor, "B L"],
        time: Float[Tensor, "B"],
        noise: Float[Tensor, "B L"],
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss per token in nats, and its parts; ``time`` and ``noise`` are uniform in [0, 1).

        condition: text features ``(B, N, C)`` or labels ``(B,)``; ``drop``: for which images it is replaced by ∅.
        """
        history = LossHistory(self.schedule.num_steps)
        history.load_state_dict({"second_moment": self.second_moment, "count": self.count})
        t, p = history.pick(time)
        if condition is not None and drop is not None:
            each = drop.view(-1, *[1] * (condition.ndim - 1))
            condition = torch.where(each, self.model.null(condition), condition)
        xt = draw_forward(self.schedule, x0, t, noise)
        losses = self.losses(self.model.denoiser(xt, t, condition).float(), x0, xt, t)
        if self.config.importance:
            history.update(cast("Tensor", gather(t)), cast("Tensor", gather(losses.bound.detach())))
            self.second_moment.copy_(history.second_moment)
            self.count.copy_(history.count)
        means = {name: getattr(losses, name).detach().mean() / x0.shape[1] for name in ("kl", "nll", "aux")}
        return (losses.total / (p * self.schedule.num_steps)).mean() / x0.shape[1], means

    def losses(
        self, logits: Float[Tensor, "B L K"], x0: Int[Tensor, "B L"], xt: Int[Tensor, "B L"], t: Int[Tensor, "B"]
    ) -> DiffusionLoss:
        """The losses of each image, as configured."""
        config = self.config
        return diffusion_loss(
            self.schedule,
            logits,
            x0,
            xt,
            t,
            aux_weight=config.aux_weight,
            mask_weight=config.mask_weight,
            adaptive=config.adaptive,
        )


class DiffusionTask:
    """Train a model's denoiser on the tokens of a set, and measure it on held-out ones."""

    learning_rates: Mapping[str, float] = {}
    criterion = Criterion("held_out_loss")
    legend = (
        "loss = kl + nll + λ·aux, in nats per token, lower is better; kl: error of one denoising step, nll: of the "
        "last, aux: of predicting the image at once; held_out_…: of images not trained on, …_null: without caption"
    )

    def __init__(
        self,
        config: DiffusionTraining | GuidanceTraining,
        *,
        limit: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """``limit``: how many images of each split to use at most; ``device``: by default that of the process."""
        self.config, self.limit = config, limit
        self.device = device or PartialState().device or torch.device("cpu")
        self.trained = config.start is not None
        image_tokenizer: ImageTokenizer = load_component(config.tokenizer_folder).to(self.device)
        known = () if config.start is None else class_names(find_model(config.start))
        self.train_set = self._tokens("train", image_tokenizer, known)  # the labels of ``start`` keep their meaning
        self.data_fingerprint = data_fingerprint(self.train_set.tokens, self.train_set.captions, self.train_set.labels)
        self.held_out = config.held_out or held_out_split(config.data)
        self.test_set = self._tokens(self.held_out, image_tokenizer, self.train_set.class_names)
        self.weights = emphasised(self.train_set, config.emphasis)
        self.parts = config.assemble(self.train_set, image_tokenizer)
        for part in filter(None, (self.parts.image_tokenizer, self.parts.text_encoder)):
            part.to(self.device)  # the loop moves what is trained, as it may shard it among processes
        self.conditions, held_out = (
            encode_conditions(rows, self.parts, config.output / f"{name}-captions.safetensors")
            for name, rows in (("train", self.train_set), ("held-out", self.test_set))
        )
        rows = np.linspace(0, len(self.test_set) - 1, min(config.evaluate, len(self.test_set))).astype(int)
        rows = np.resize(rows, self.measurements(len(rows)))
        self.test_tokens = torch.from_numpy(self.test_set.tokens[rows, 0].astype(np.int64))
        self.given = None if held_out is None else held_out.draw(rows, np.random.default_rng(0), slice(None))
        self.objective = DiffusionObjective(self.parts, config.loss)
        self.model = self.objective.model
        if isinstance(self.parts.denoiser, ClassicDenoiser | ModernDenoiser):
            self.parts.denoiser.recompute = config.recompute
        self.compiled = self.model.get_submodule("denoiser") if config.compile else None

    def measurements(self, images: int) -> int:
        """How often the loss is measured on so many held-out images: on each of a few at several times t."""
        return min(self.config.evaluate, max(images, _FEW))

    def _tokens(self, split: str, image_tokenizer: ImageTokenizer, class_names: tuple[str, ...] = ()) -> TokenSet:
        data, config = self.config.data, self.config
        if _is_tokens(data):
            found = TokenSet.load(data, split, class_names)
            found.check_tokenizer(image_tokenizer)
            return found
        bf16 = config.run.precision == "bf16"
        options: dict[str, Any] = {"views": config.views, "bf16": bf16, "class_names": class_names}
        options |= {"validation": config.validation, "limit": self.limit}
        return tokenize(data, split, image_tokenizer, config.output / "tokens", **options)

    def batch(self, step: int, share: slice) -> TrainingBatch:
        """Tokens, times, noise and conditions of the rows ``share``."""
        random = np.random.default_rng((self.config.run.seed, step))
        noise = torch.Generator().manual_seed(int(random.integers(2**63)))
        size, (_, views, length) = self.config.run.batch_size, self.train_set.tokens.shape
        rows, view = random.choice(len(self.weights), size, p=self.weights), random.integers(views, size=size)
        # One time in each of ``size`` equal parts of the unit interval: the same mean with less variance.
        times = (torch.arange(size) + torch.rand(size, generator=noise)) / size
        batch = {
            "x0": torch.from_numpy(self.train_set.tokens[rows[share], view[share]].astype(np.int64)),
            "time": times[share],
            "noise": torch.rand((size, length), generator=noise, dtype=torch.float64)[share],
        }
        if self.conditions is not None:
            batch["drop"] = torch.from_numpy(random.random(size) < self.config.drop)[share]
            batch["condition"] = self.conditions.draw(rows, random, share)
        return batch

    def evaluate(self, model: Conditional) -> dict[str, float]:
        """The loss on held-out images, and the mean cross-entropy (nats) at masked positions, also under ∅.

        Every call draws the same times and the same noise.
        """
        return self._scores(model, len(self.test_tokens))

    @torch.no_grad()
    def _scores(self, model: Conditional, count: int) -> dict[str, float]:
        schedule, x0, noise = self.parts.schedule, self.test_tokens[:count], torch.Generator().manual_seed(0)
        t = ((torch.arange(len(x0)) + 0.5) * schedule.num_steps / len(x0)).long() + 1
        xt = draw_forward(schedule, x0, t, torch.rand(x0.shape, generator=noise, dtype=torch.float64))
        masked = xt == schedule.num_codes
        given = None if self.given is None else self.given[:count]
        known = {"": given} if given is None else {"": given, "_null": model.null(given)}
        values = dict[str, float]()
        for name, condition in known.items():
            total = loss = 0.0
            for part in torch.arange(len(x0)).split(64):
                given = None if condition is None else condition[part].to(self.device)
                logits = model.denoiser(xt[part].to(self.device), t[part].to(self.device), given).cpu().float()
                true = x0[part][masked[part]]
                total += float(nn.functional.cross_entropy(logits[masked[part]], true, reduction="sum"))
                if not name:
                    loss += float(self.objective.losses(logits, x0[part], xt[part], t[part]).total.sum())
            if not name:
                values["held_out_loss"] = loss / x0.numel()
            values[f"held_out_masked_nll{name}"] = total / max(1, int(masked.sum()))
        return values

    def upkeep(self, model: Conditional) -> tuple[float, float]:
        prompts, few, start = self._prompts(), min(16, len(self.test_tokens)), time.monotonic()
        self._scores(model, few)
        evaluating, start = (time.monotonic() - start) * len(self.test_tokens) / few, time.monotonic()
        Pipeline(self._with(model))(prompts[:1])
        return evaluating, (time.monotonic() - start) * 2 * len(prompts)

    def preview(self, model: Conditional, path: Path) -> None:
        """Generate two images of every prompt."""
        images = Pipeline(self._with(model))(self._prompts(), num_images=2)
        with atomic_path(path) as temporary:
            sheet(images, columns=6).save(temporary)

    def _prompts(self) -> Sequence[str | int | None]:
        if self.config.prompts:
            return self.config.prompts
        if (encoder := self.parts.text_encoder) is not None:
            rows = range(0, len(self.test_set), -(-len(self.test_set) // 6))
            return [literal(encoder.fit(self.test_set.captions[row][0])) for row in rows]
        return [None] * 6 if self.parts.num_classes is None else list(range(min(6, self.parts.num_classes)))

    def save(self, model: Conditional, folder: Path) -> None:
        """Write the model folder ``model``, with the measured quality on its card."""
        quality = self.evaluate(model)
        if not _is_tokens(self.config.data):
            size = self.parts.image_tokenizer.config.image_size
            pictures = load(self.config.data, self.held_out, size, validation=self.config.validation)
            quality |= HeldOut(pictures, 512).scores(self.parts.image_tokenizer)
        card = replace(self.parts.card, quality=quality)
        if self.parts.text_encoder is not None and not card.prompts:
            card.prompts = tuple(map(str, self._prompts()))
        finished = replace(self._with(model), card=card)
        finished.save(folder / "model", torch.float16)

    def _with(self, model: Conditional) -> Model:
        return replace(self.parts, denoiser=model.denoiser, null_condition=model.null_condition)


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


def _is_tokens(data: str | Path) -> bool:
    return any(Path(data).glob("*/about.json"))


def train_diffusion(
    config: DiffusionTraining | GuidanceTraining, *, resume: bool = False, sanity: bool = False
) -> None:
    """Train, from scratch or from a trained model, and write the model folder ``output/model``.

    See :func:`vqdiff.training.loop.train`; ``sanity`` only checks whether one batch can be learned.
    """
    if sanity:
        with TemporaryDirectory() as folder:
            elsewhere = replace(config, output=Path(folder, "run"))
            train(lambda: DiffusionTask(elsewhere, limit=config.run.batch_size), config.run, Path(folder), sanity=True)
        return
    hub = config.hub
    if hub is not None:
        hub.check()
    train(
        lambda: DiffusionTask(config),
        config.run,
        config.output,
        resume=resume,
        settings=config,
        compile=config.compile,
    )
    if hub is not None and PartialState().is_main_process:
        hub.push(config.output / "model")
