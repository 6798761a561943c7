"""Stage two: train the denoiser, and its null condition, on tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor, nn

from vqdiff.data import TokenSet, emphasised, held_out_split, load, tokenize
from vqdiff.denoisers import ClassicDenoiser, ModernDenoiser
from vqdiff.diffusion import DiffusionLoss, LossHistory, diffusion_loss
from vqdiff.diffusion.schedule import draw_forward
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.images import sheet
from vqdiff.foundation.shapes import Float, Int
from vqdiff.interfaces import ImageTokenizer
from vqdiff.model import Model, load_component
from vqdiff.model.finding import find_model
from vqdiff.model.model import class_names
from vqdiff.pipeline import Pipeline
from vqdiff.text import literal
from vqdiff.training.conditions import encode_conditions
from vqdiff.training.denoiser_settings import DiffusionTraining, GuidanceTraining, Objective
from vqdiff.training.loop import train
from vqdiff.training.resuming import data_fingerprint
from vqdiff.training.state import TrainingBatch
from vqdiff.training.tokenizer import HeldOut
from vqdiff.training.validation import Criterion

_FEW = 32
"""Measurements of held-out loss at least, however few images there are."""


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
        through: Int[Tensor, "B Q"] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss per token in nats, and its parts; ``time`` and ``noise`` are uniform in [0, 1).

        condition: text features ``(B, N, C)`` or labels ``(B,)``; ``drop``: for which images it is replaced by ∅;
        ``through``: of the denoiser, if it has routing (`Routing`).
        """
        history = LossHistory(self.schedule.num_steps)
        history.load_state_dict({"second_moment": self.second_moment, "count": self.count})
        t, p = history.pick(time)
        if condition is not None and drop is not None:
            each = drop.view(-1, *[1] * (condition.ndim - 1))
            condition = torch.where(each, self.model.null(condition), condition)
        xt = draw_forward(self.schedule, x0, t, noise)
        routed = () if through is None else (through,)
        losses = self.losses(self.model.denoiser(xt, t, condition, *routed).float(), x0, xt, t)
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
        self.through = config.routing.count(self.parts.denoiser) if config.routing.share else 0
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
        if self.through and step < self.config.routing.until * self.config.run.steps:
            order = torch.rand((size, cast("ModernDenoiser", self.parts.denoiser).num_positions), generator=noise)
            batch["through"] = order[share].topk(self.through, dim=1, sorted=False).indices
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
