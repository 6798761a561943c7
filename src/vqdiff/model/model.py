"""The assembled model and its folder (``model_index.json`` and one sub-folder per component)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from vqdiff import __version__
from vqdiff.denoisers.packed import precision_of
from vqdiff.diffusion import Schedule
from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError, about, suggestion, unknown
from vqdiff.foundation.files import atomic_path, read_json
from vqdiff.foundation.processor import rounding_on
from vqdiff.interfaces import Component, Denoiser, ImageTokenizer, PreparedCondition
from vqdiff.model.bound import BoundDenoiser, SomePrepared
from vqdiff.model.components import fingerprint, load_component, save_component
from vqdiff.model.devices import with_float64
from vqdiff.model.references import check_guide, check_weaker
from vqdiff.presets import PUBLISHED, fast_and_best
from vqdiff.sampling import CallSettings, SamplingSettings, get_sampler
from vqdiff.sampling.checks import check_settings, warn_of_ignored
from vqdiff.sampling.measured import checked_masked_nll
from vqdiff.text import (
    AnyTextEncoder,
    Blend,
    ClipTextEncoder,
    Condition,
    NullCondition,
    TextEncoder,
    check_prompt,
    parse_weights,
    prompts_in,
)

FORMAT_VERSION = 1


@dataclass
class Card:
    """A model's description: licences, training data, measured quality."""

    name: str = "unnamed"
    licenses: dict[str, str] = field(default_factory=dict)
    trained_on: str = ""
    quality: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """For a converted model: the file each part came from."""
    notes: tuple[str, ...] = ()
    """Peculiarities of those files."""
    datasets: tuple[str, ...] = ()
    """Ids of its training sets on the Hugging Face Hub."""
    limitations: str = ""
    prompts: tuple[str, ...] = ()
    """Prompts that show what it can draw, for the samples on its page on the Hub."""


@dataclass
class Model:
    """The parts that generate an image from a condition; see :meth:`load` and :meth:`save`.

    ``text_encoder`` and ``null_condition`` are None for class-conditional and unconditional models.

    Raises InputError for a ``weaker_denoiser`` that does not fit ``denoiser``.
    """

    schedule: Schedule
    denoiser: Denoiser
    image_tokenizer: ImageTokenizer
    text_encoder: AnyTextEncoder | None = None
    null_condition: NullCondition | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    card: Card = field(default_factory=Card)
    fingerprint: str = "unsaved"
    """Twelve hex digits: a hash of all that determines an image besides its prompt, seed and settings."""
    class_names: tuple[str, ...] = ()
    """The names of the labels of a class-conditional model, if they have names."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """By name, what a preset changes in ``sampling``; of ``fast`` and ``best``, `fast_and_best` if they are missing."""
    batch_invariant: bool = False
    """Whether an image is the same in any batch on a GPU too, as it always is on a CPU."""
    weaker_denoiser: Denoiser | None = None
    """What the guide ``weaker`` leads away from: a denoiser for the same tokens, times and conditions, which is smaller
    or was trained for less long."""
    masked_nll: tuple[float, ...] = ()
    """The mean cross-entropy of a masked token, in nats, where one token is masked, and where the shares 1/N, 2/N, …, 1
    of the tokens are; rising. For the reveal curve measured; empty if it is not measured."""

    def __post_init__(self) -> None:
        if self.weaker_denoiser is not None:
            check_weaker(self.denoiser, self.weaker_denoiser)

    def with_weaker(self, other: Model) -> Model:
        """Return this model with the denoiser of another as its `weaker_denoiser`.

        Raises InputError if it does not fit, or was trained with another schedule or for another image tokenizer.
        """
        if other.schedule != self.schedule:
            raise InputError(f"{other.card.name!r} has another schedule than {self.card.name!r}: use one that fits")
        if other.class_names != self.class_names:
            raise InputError(f"{other.card.name!r} has other classes than {self.card.name!r}: use one that fits")
        encoders = [None if one.text_encoder is None else one.text_encoder.model for one in (self, other)]
        for name, own, others in (
            ("image tokenizer", self.image_tokenizer, other.image_tokenizer),
            ("text encoder", *encoders),
        ):
            if not _same_weights(own, others):
                raise InputError(f"{other.card.name!r} has another {name} than {self.card.name!r}: use one that fits")
        return dataclasses.replace(self, weaker_denoiser=other.denoiser)

    def identity(self) -> dict[str, Any]:
        """Return what an image's record says about the model, and about what else determines how its numbers round."""
        return {
            "model": self.card.name,
            "model_hash": self.fingerprint,
            "precision": precision_of(self.denoiser),
            "version": __version__,
            **rounding_on(self.device),
        }

    def curve_identity(self, settings: SamplingSettings) -> dict[str, Any]:
        """Return a hash of the measurement, under its name in a record, if these settings use it: else nothing."""
        if settings.curve != "measured":
            return {}
        return {"curve_hash": hashlib.sha256(repr(self.masked_nll).encode()).hexdigest()[:12]}

    @property
    def num_tokens(self) -> int:
        """L, the number of tokens of an image."""
        return self.image_tokenizer.grid_size**2

    @property
    def device(self) -> torch.device:
        """The device that the parts are on."""
        return next(self.denoiser.parameters()).device

    @property
    def sampling_device(self) -> torch.device:
        """The device that tokens are sampled on: that of the parts, or the CPU if that has no float64."""
        return with_float64(self.device)

    @property
    def conditioned_on(self) -> Literal["text", "labels", "nothing"]:
        """The kind of condition that the model takes."""
        return "text" if self.text_encoder is not None else "labels" if self.num_classes else "nothing"

    @property
    def num_classes(self) -> int | None:
        """Number of labels of a class-conditional model, else None."""
        return getattr(self.denoiser.config, "num_classes", None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts to ``device``, and the denoiser and image tokenizer to ``dtype`` if given."""
        for denoiser in filter(None, (self.denoiser, self.weaker_denoiser)):
            denoiser.to(device, dtype)
        self.image_tokenizer.to(device)
        for part in (self.text_encoder, self.null_condition):
            if part is not None:
                part.to(device)
        return self

    def settings(self, given: SamplingSettings | None = None, /, **changes: Unpack[CallSettings]) -> SamplingSettings:
        """Return ``given``, by default the settings of ``preset`` or the model's own, with ``changes`` (None: none).

        Raises InputError for an unknown preset and values out of range, also for more steps than an image has tokens,
        for the reveal curve measured of a model without its measurement, and for a guide that leads away from what
        this model does not have. Warns of changes that the sampler does not use.
        """
        preset = changes.pop("preset", None)
        settings = (given or (self.sampling if preset is None else self.preset(preset))).changed(**changes)
        sampler = get_sampler(settings.sampler)
        check_settings(settings, self.num_tokens, self.masked_nll, sampler)
        check_guide(settings, self.schedule.num_steps, self.denoiser, self.weaker_denoiser)
        warn_of_ignored(settings, [name for name, value in changes.items() if value is not None], sampler)
        return settings

    @property
    def own_presets(self) -> dict[str, Mapping[str, Any]]:
        """What each preset of this model changes in its own settings; ``fast`` and ``best`` are always there."""
        return {**fast_and_best(self.sampling, self.num_tokens), **self.presets}

    def preset(self, name: str) -> SamplingSettings:
        """Return the settings of a preset, one of the model or a published one; InputError for an unknown name."""
        with about("preset"):
            if name in (own := self.own_presets):
                return self.sampling.changed(**own[name])
            if name in PUBLISHED:
                return PUBLISHED[name]
            raise unknown("preset", name, [*own, *PUBLISHED])

    def encode(self, conditions: Sequence[Condition] | None) -> Tensor | None:
        """Prompts → text features ``(B, N, C)``; labels → ``(B,)``; None stays None (an unconditional model).

        A None in the list is the null condition ∅. If a word has a weight (`vqdiff.text.parse_weights`), the features
        have a column more, the weights of the tokens.
        """
        if self.text_encoder is not None:
            # One by one: in a batch, rounding would depend on the other prompts, and so would the image.
            features = {one: self._features(one) for one in conditions or ()}
            weighted = torch.cat([features[one] for one in conditions or ()])
            return weighted[..., :-1].contiguous() if weighted[..., -1].eq(1).all() else weighted
        if conditions is None or self.num_classes is None:
            return None
        self.check(conditions)
        rows = [self.num_classes if one is None else self.label(one) for one in conditions]
        return torch.tensor(rows, device=self.device)

    def check(self, conditions: Sequence[Condition]) -> None:
        """Raise InputError for a prompt that the text encoder does not accept, or a label that is out of range.

        A prompt without a known word only gives a warning.
        """
        texts = [text for one in conditions for text in prompts_in(one)]
        for text in texts:
            check_prompt(text)
        if self.text_encoder is not None:
            if numbers := [one for one in conditions if isinstance(one, int)]:
                raise InputError(f"the prompt is {numbers[0]}, but this model is conditioned on text: give text")
            prompts = [parse_weights(text) for text in texts]
            if not getattr(self.denoiser, "takes_token_weights", False) and any(not one.plain for one in prompts):
                raise InputError(
                    r"this model's denoiser takes no prompt weights: leave them out, or write \( and \) for parentheses"
                )
            self.text_encoder.check([one.text for one in prompts])
        elif self.num_classes is not None:
            for one in conditions:
                if one is not None:
                    self.label(one)

    def label(self, given: Condition) -> int:
        """Return the label of a class, given by its name (in any case) or its number; InputError for an unknown one."""
        text = str(given).strip()
        numbers = {name.casefold(): label for label, name in reversed(list(enumerate(self.class_names)))}
        numbers |= {name: label for label, name in enumerate(self.class_names)}
        if not isinstance(given, int) and (name := text if text in numbers else text.casefold()) in numbers:
            return numbers[name]
        count = self.num_classes or 0
        if text.isdecimal() and int(text) < count:
            return int(text)
        if text.lstrip("-").isdecimal():
            raise InputError(f"labels run from 0 to {count - 1}, not {given!r}")
        if not parse_weights(text).plain:
            raise InputError(f"this model generates classes, which have no weights: {text!r}; name a class alone")
        if not self.class_names:
            raise InputError(f"this model generates labels 0 to {count - 1}, not {given!r}")
        near = suggestion(text, self.class_names)
        hint = near if near.endswith("?") else f"choose one of {self._some_names()}, or a label from 0 to {count - 1}"
        raise InputError(f"this model has no class {text!r}: {hint}")

    def _some_names(self, most: int = 20) -> str:
        more = f", … ({len(self.class_names)} in all, see vqdiff info)" if len(self.class_names) > most else ""
        return ", ".join(self.class_names[:most]) + more

    def _features(self, condition: Condition) -> Tensor:
        """Return the features and, in the last column, the weights of the tokens."""
        assert self.text_encoder is not None
        if isinstance(condition, Blend):
            return torch.lerp(self._features(condition.first), self._features(condition.second), condition.weight)
        if condition is not None:
            prompt = parse_weights(str(condition))
            features = self.text_encoder.encode([prompt.text])
            weights = self.text_encoder.token_weights(prompt.text, prompt.weights).to(features)
            return torch.cat([features, weights[None, :, None]], -1)
        if (null := self.null(1)) is None:
            raise InputError("this model has no null condition: give it a prompt, and use guidance 1")
        return torch.nn.functional.pad(null, (0, 1), value=1.0)

    def null(self, batch_size: int) -> Tensor | None:
        """The null condition ∅ for ``batch_size`` images."""
        if self.null_condition is not None:
            return self.null_condition(batch_size)
        if self.num_classes is not None:
            return torch.full((batch_size,), self.num_classes, device=self.device)
        return None

    def bind(self, condition: Tensor | None, null: Tensor | None = None, *, weaker: bool = False) -> BoundDenoiser:
        """Return the denoiser with its conditions prepared once for all steps.

        Called with twice as many rows as there are conditions, it predicts the second half under ``null``. ``weaker``:
        whether guidance leads away from the weaker denoiser, too. On a CPU, or if `batch_invariant` is set, the result
        of a row does not depend on the other rows.
        """
        invariant = self.batch_invariant or self.device.type == "cpu"

        def prepared(denoiser: Denoiser, given: Tensor | None) -> PreparedCondition | None:
            if given is None or not invariant:
                return denoiser.prepare(given)
            first, *others = (denoiser.prepare(one) for one in given.split(1))
            return first.join(*others) if others else first

        num_images = None if condition is None else len(condition)
        rows = tuple(range(num_images or 0))
        return BoundDenoiser(
            self.denoiser,
            num_images,
            prepared(self.denoiser, condition),
            None if null is None else SomePrepared(self.denoiser, rows, prepared(self.denoiser, null)),
            SomePrepared(self.weaker_denoiser, rows, prepared(self.weaker_denoiser, condition))
            if weaker and self.weaker_denoiser is not None
            else None,
            invariant,
            self.device if self.sampling_device != self.device else None,
        )

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the model folder; floating-point weights as ``dtype`` if given."""
        with atomic_path(folder) as path:
            path.mkdir()
            parts: dict[str, Component] = {"denoiser": self.denoiser, "image_tokenizer": self.image_tokenizer}
            if self.weaker_denoiser is not None:
                parts["weaker_denoiser"] = self.weaker_denoiser
            if self.null_condition is not None:
                parts["null_condition"] = self.null_condition
            for name, part in parts.items():
                save_component(part, path / name, dtype)
            index: dict[str, Any] = {"format_version": FORMAT_VERSION}
            index["components"] = {name: type(part).__name__ for name, part in parts.items()}
            if self.text_encoder is not None:
                self.text_encoder.save(path / "text_encoder")
                index["components"]["text_encoder"] = type(self.text_encoder).__name__
                if isinstance(self.text_encoder, TextEncoder):
                    index["text_encoder"] = {"max_tokens": self.text_encoder.max_tokens}
            if self.class_names:
                index["class_names"] = list(self.class_names)
            index["schedule"] = self.schedule.to_config()
            index["sampling"] = dataclasses.asdict(self.sampling)
            if self.presets:
                index["presets"] = {name: dict(changes) for name, changes in self.presets.items()}
            if self.masked_nll:
                index["masked_nll"] = list(self.masked_nll)
            index["card"] = dataclasses.asdict(self.card)
            (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model:
        """Read a model folder, the denoisers as ``dtype`` (default float32).

        ``shapes_only`` builds the parts on the meta device and reads no weights. Raises InputError for what is missing,
        unknown or broken.
        """
        index = read_json(folder / "model_index.json")
        if index.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{folder} has format version {index.get('format_version')}, this vqdiff reads {FORMAT_VERSION}"
            )
        where = str(folder / "model_index.json")
        try:
            parts = {
                name: load_component(
                    folder / name, dtype=dtype if name.endswith("denoiser") else None, shapes_only=shapes_only
                )
                for name in index["components"]
                if name != "text_encoder"
            }
            match index["components"].get("text_encoder"):
                case None:
                    text_encoder = None
                case "ClipTextEncoder":
                    text_encoder = ClipTextEncoder.read(folder / "text_encoder", shapes_only=shapes_only)
                case "TextEncoder":
                    settings = index["text_encoder"]
                    text_encoder = TextEncoder(folder / "text_encoder", **settings, shapes_only=shapes_only)
                case other:
                    raise unknown("text encoder", other, ["ClipTextEncoder", "TextEncoder"])
            model = cls(
                Schedule.from_config(index["schedule"]),
                parts["denoiser"],
                parts["image_tokenizer"],
                text_encoder,
                parts.get("null_condition"),
                SamplingSettings.read(index["sampling"], where),
                build(Card, index["card"], where),
                fingerprint(folder),
                class_names(folder),
                index.get("presets", {}),
                masked_nll=checked_masked_nll(index.get("masked_nll"), where),
                weaker_denoiser=parts.get("weaker_denoiser"),
            )
            for name in model.presets:
                try:
                    model.settings(preset=name)
                except InputError as error:
                    raise InputError(f"{where}: preset {name}: {error}") from error
            return model
        except KeyError as error:
            raise InputError(f"{where}: {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise InputError(f"{where} does not describe a model folder: {error}") from error


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the labels of the model in ``folder``; none if they have no names."""
    return tuple(read_json(folder / "model_index.json").get("class_names", ()))


def _same_weights(one: Any, other: Any) -> bool:
    """Whether two networks, or None, have the same weights, in the precision that either may have been saved with."""
    if one is None or other is None:
        return one is other
    own, others = one.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(
        torch.equal(value.bfloat16(), others[name].bfloat16()) for name, value in own.items()
    )
