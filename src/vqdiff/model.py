"""The assembled model and its folder (``model_index.json`` and one sub-folder a component)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.denoisers.layers import aligned
from vqdiff.denoisers.packed import is_packed, precision_of
from vqdiff.diffusion import Schedule
from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, read_json, release
from vqdiff.foundation.initialising import without_initialising
from vqdiff.image_tokenizers import VQGAN, AbsentConfig, AbsentTokenizer, CompactConfig, CompactTokenizer, VQGANConfig
from vqdiff.sampling import SamplingSettings
from vqdiff.text import AnyTextEncoder, Blend, ClipTextEncoder, Condition, NullCondition, NullConfig, TextEncoder

FORMAT_VERSION = 1
NETWORKS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "ClassicDenoiser": (ClassicDenoiser, ClassicConfig),
    "ModernDenoiser": (ModernDenoiser, ModernConfig),
    "CompactTokenizer": (CompactTokenizer, CompactConfig),
    "VQGAN": (VQGAN, VQGANConfig),
    "AbsentTokenizer": (AbsentTokenizer, AbsentConfig),
    "NullCondition": (NullCondition, NullConfig),
}


@dataclass
class Card:
    """What a model says of itself: licences, what it was trained on, what was measured."""

    name: str = "unnamed"
    licenses: dict[str, str] = field(default_factory=dict)
    trained_on: str = ""
    quality: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Of a model from elsewhere: the file each part came from."""
    notes: tuple[str, ...] = ()
    """What was odd about those files."""


@dataclass(frozen=True)
class Bound:
    """A denoiser and the prepared conditions of a batch of pictures (a `TwoStage` `Denoise`); see `Model.bind`.

    As the rows of a `Batch`, conditions may leave (`select`) and come (`join`) between two steps.
    """

    denoiser: Any
    num_images: int | None
    """B; None for an unconditional model, whose conditions take no rows."""
    condition: Any
    null: Any | None = None
    batch_invariant: bool = False
    """Whether what is predicted for an image must not depend on the batch, not even by rounding."""

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        return self.logits(self.features(tokens, t))

    def features(self, tokens: Tensor, t: Tensor) -> Tensor:
        """What the denoiser knows of every position."""
        guided = self.null is not None and len(tokens) != self.num_images
        condition = self._both if guided else self.condition
        if not self._one_by_one or len(tokens) == 1:
            return self.denoiser.features(tokens, t, condition)
        rows = [condition if self.num_images is None else condition.one(row) for row in range(len(tokens))]
        return torch.cat([self.denoiser.features(*one) for one in zip(tokens.split(1), t.split(1), rows, strict=True)])

    def logits(self, features: Tensor) -> Tensor:
        """The logits of x0 at positions with these features, (B, M, E) or (M, E)."""
        if not self._one_by_one or features.ndim == 2:
            return self.denoiser.logits(features)
        return torch.cat([self.denoiser.logits(aligned(one)) for one in features.split(1)])

    @property
    def _one_by_one(self) -> bool:
        """Whether to call the denoiser with one image at a time."""
        return self.batch_invariant and not getattr(self.denoiser, "batch_invariant", False)

    @cached_property
    def _both(self) -> Any:
        return self.condition.join(self.null)

    def select(self, rows: Sequence[int]) -> Bound:
        """Return the conditions with these numbers, in this order."""
        if self.num_images is None:
            return self
        null = None if self.null is None else self.null.select(rows)
        return replace(self, num_images=len(rows), condition=self.condition.select(rows), null=null)

    def join(self, other: Bound) -> Bound:
        """Return these conditions and then those of `other`, which has the same denoiser and as well a null or none."""
        if self.num_images is None or other.num_images is None:
            return self
        null = None if self.null is None else self.null.join(other.null)
        num_images = self.num_images + other.num_images
        return replace(self, num_images=num_images, condition=self.condition.join(other.condition), null=null)


@dataclass
class Model:
    """The parts that make a picture from a condition; see :meth:`load` and :meth:`save`.

    ``text_encoder`` and ``null_condition`` are None for class-conditional and unconditional models.
    """

    schedule: Schedule
    denoiser: Any
    image_tokenizer: Any
    text_encoder: AnyTextEncoder | None = None
    null_condition: NullCondition | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    card: Card = field(default_factory=Card)
    fingerprint: str = "unsaved"
    """Twelve hex digits that change with all that decides a picture, once its prompt, seed and settings are given."""
    batch_invariant: bool = False
    """Whether, on a GPU too, an image is computed as it is alone, whatever batch it is in; on a CPU it always is."""

    def identity(self) -> dict[str, str]:
        """What a picture's metadata say of the model, besides its settings."""
        return {"model": self.card.name, "model_hash": self.fingerprint, "precision": precision_of(self.denoiser)}

    @property
    def num_tokens(self) -> int:
        """L, the tokens of a picture."""
        return self.image_tokenizer.grid_size**2

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return next(self.denoiser.parameters()).device

    @property
    def num_classes(self) -> int | None:
        """Number of labels of a class-conditional model, else None."""
        return getattr(self.denoiser.config, "num_classes", None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts to ``device``, and the denoiser and image tokenizer to ``dtype`` if given."""
        self.denoiser.to(device, dtype)
        self.image_tokenizer.to(device)
        for part in (self.text_encoder, self.null_condition):
            if part is not None:
                part.to(device)
        return self

    def encode(self, conditions: Sequence[Condition] | None) -> Tensor | None:
        """Prompts → text features ``(B, N, C)``; labels → ``(B,)``; None stays None (an unconditional model).

        A None among them is the null condition ∅.
        """
        if self.text_encoder is not None:
            # One by one: in a batch, rounding would depend on the other prompts, and so would the picture.
            features = {one: self._features(one) for one in conditions or ()}
            return torch.cat([features[one] for one in conditions or ()])
        if conditions is None or self.num_classes is None:
            return None
        if wrong := [one for one in conditions if one is not None and not str(one).isdecimal()]:
            raise InputError(f"this model draws labels 0 to {self.num_classes - 1}, not {wrong[0]!r}")
        labels = [int(str(one)) for one in conditions if one is not None]
        if labels and not 0 <= min(labels) <= max(labels) < self.num_classes:
            raise InputError(f"labels run from 0 to {self.num_classes - 1}, got {labels}")
        rows = [self.num_classes if one is None else int(str(one)) for one in conditions]
        return torch.tensor(rows, device=self.device)

    def _features(self, condition: Condition) -> Tensor:
        assert self.text_encoder is not None
        if isinstance(condition, Blend):
            return torch.lerp(self._features(condition.first), self._features(condition.second), condition.weight)
        if condition is not None:
            return self.text_encoder.encode([str(condition)])
        if (null := self.null(1)) is None:
            raise InputError("this model has no null condition: give it a prompt, and use guidance 1")
        return null

    def null(self, batch_size: int) -> Tensor | None:
        """The null condition ∅ for ``batch_size`` pictures."""
        if self.null_condition is not None:
            return self.null_condition(batch_size)
        if self.num_classes is not None:
            return torch.full((batch_size,), self.num_classes, device=self.device)
        return None

    def bind(self, condition: Tensor | None, null: Tensor | None = None) -> Bound:
        """The denoiser with its conditions prepared once for all steps.

        Called with twice as many rows as there are conditions, it predicts the second half under ``null``. On a CPU, or
        if `batch_invariant` says so, each row is computed as it is alone.
        """
        invariant = self.batch_invariant or self.device.type == "cpu"
        prepare = self._prepare_apart if invariant else self.denoiser.prepare
        num_images = None if condition is None else len(condition)
        return Bound(self.denoiser, num_images, prepare(condition), None if null is None else prepare(null), invariant)

    def _prepare_apart(self, condition: Tensor | None) -> Any:
        if condition is None:
            return self.denoiser.prepare(None)
        first, *others = (self.denoiser.prepare(one) for one in condition.split(1))
        return first.join(*others) if others else first

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the model folder; floating-point weights as ``dtype`` if given."""
        with atomic_path(folder) as path:
            path.mkdir()
            parts = {"denoiser": self.denoiser, "image_tokenizer": self.image_tokenizer}
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
            index["schedule"] = self.schedule.to_config()
            index["sampling"] = dataclasses.asdict(self.sampling)
            index["card"] = dataclasses.asdict(self.card)
            (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype | None = None, shapes_only: bool = False) -> Model:
        """Read a model folder, the denoiser as ``dtype`` (default float32).

        ``shapes_only`` gives parts on the meta device and reads no weights. InputError says what is missing, unknown or
        broken.
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
                    folder / name, dtype=dtype if name == "denoiser" else None, shapes_only=shapes_only
                )
                for name in index["components"]
                if name != "text_encoder"
            }
            text_encoder = None
            match index["components"].get("text_encoder"):
                case "ClipTextEncoder":
                    text_encoder = ClipTextEncoder.read(folder / "text_encoder", shapes_only=shapes_only)
                case "TextEncoder":
                    settings = index["text_encoder"]
                    text_encoder = TextEncoder(folder / "text_encoder", **settings, shapes_only=shapes_only)
            return cls(
                Schedule.from_config(index["schedule"]),
                parts["denoiser"],
                parts["image_tokenizer"],
                text_encoder,
                parts.get("null_condition"),
                build(SamplingSettings, index["sampling"], where),
                build(Card, index["card"], where),
                fingerprint(folder),
            )
        except KeyError as error:
            raise InputError(f"{where}: {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise InputError(f"{where} is not what a model folder says of itself: {error}") from error


def save_component(module: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a network that has a ``config`` dataclass.

    Raises InputError if it is packed: its weights are then not what they were.
    """
    if is_packed(module):
        raise InputError("this network is packed for drawing: save its pipeline, or load the model without packing it")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for name, value in module.state_dict().items()
    }
    config = {"class": type(module).__name__, **dataclasses.asdict(module.config)}
    with atomic_path(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    with atomic_path(folder / "model.safetensors") as path:
        save_file(tensors, path)
        path.chmod(0o644)  # safetensors makes files for their owner alone


def load_component(
    folder: Path,
    networks: Mapping[str, tuple[type[nn.Module], type[Any]]] = NETWORKS,
    *,
    dtype: torch.dtype | None = None,
    shapes_only: bool = False,
) -> Any:
    """Read what :func:`save_component` wrote, as ``dtype`` (default float32) and in evaluation mode.

    Its class is one of ``networks``. ``shapes_only`` builds it on the meta device and reads no weights.
    """
    values = read_json(folder / "config.json")
    name = values.pop("class", None)
    if name not in networks:
        raise InputError(f"{folder / 'config.json'}: unknown class {name!r}; known: {', '.join(networks)}")
    network, config_of = networks[name]
    config = build(config_of, values, str(folder / "config.json"))
    # What is not filled takes no memory yet, and tables that are computed and not in the file are there already.
    with torch.device("meta" if shapes_only else "cpu"), without_initialising():
        module = network(config)
    if shapes_only:
        return module.eval().requires_grad_(False)
    weights = folder / "model.safetensors"
    try:
        kinds = {key: value.dtype for key, value in module.state_dict().items()}
        # Assigned, tensor by tensor: a large model must never be in memory twice.
        state = {
            key: converted(value, dtype if dtype and value.is_floating_point() else kinds.get(key, value.dtype))
            for key, value in load_file(weights).items()
        }
        module.load_state_dict(state, assign=True)
    except FileNotFoundError as error:
        raise InputError(f"{weights} is missing: the model folder is incomplete") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{weights} is broken or of another network: {str(error).splitlines()[0]}") from error
    return module.eval().requires_grad_(False)


def converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A file's tensor as ``dtype``, without leaving what was read of the file in memory."""
    if value.dtype == dtype:
        return value
    copy = value.to(dtype)
    release(value)
    return copy


def fingerprint(folder: Path) -> str:
    """Twelve hex digits of the weights and configurations in a folder; default settings and the card don't count."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        content = path.read_bytes()
        if path == folder / "model_index.json":
            index = read_json(path)
            content = json.dumps(
                {key: index[key] for key in index.keys() - {"sampling", "card"}}, sort_keys=True
            ).encode()
        digest.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]
