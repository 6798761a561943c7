"""Options shared by several commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff import settings
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import Choice, Option, option, options_of
from vqdiff.settings import SamplingSettings

if TYPE_CHECKING:
    from vqdiff.pipeline import Pipeline
    from vqdiff.text import Condition

Output = Annotated[Path, Parameter(name=["--output", "-o"])]
"""``--output``, ``-o``: the file or folder to write."""

Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")]
"""``--quiet``, ``-q``: print nothing but errors."""

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""``--json``: print a record instead of a line."""

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)]
"""``--set key=value``, may be repeated: changes to a configuration file."""


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it runs."""

    model: str = "emoji"
    """A bundled model's name, a model, run or diffusers folder, an original checkpoint (.pth), or a Hub id."""
    image_tokenizer: Path | None = None
    """The image codec's file, if a checkpoint does not contain it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with."""
    batch_invariant: bool = False
    """On a GPU, compute one image at a time: an image is then the same in any batch, as it always is on a CPU."""

    def load(self) -> Pipeline:
        """Load the model."""
        from vqdiff.pipeline import load

        return load(
            self.model,
            device=self.device,
            precision=self.precision,
            batch_invariant=self.batch_invariant,
            image_tokenizer=self.image_tokenizer,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class ServedModels:
    """The models that a server has, and where they run."""

    model: Annotated[tuple[str, ...], Parameter(negative="", show_default=", ".join)] = ("emoji",)
    """A model to serve, as name=source or source; may be repeated. The first is the default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with."""

    def sources(self) -> dict[str, str]:
        """Return the sources of the models by name; raises InputError if two have the same name."""
        sources = dict[str, str]()
        for one in self.model:
            name, named, source = one.partition("=")
            if name in sources:
                raise InputError(f"two models have the name {name!r}: rename one, --model other={source or name}")
            sources[name] = source if named else one
        return sources

    def load(self, *, batch_invariant: bool = False) -> dict[str, Pipeline]:
        """Load the models, by name."""
        from vqdiff.pipeline import load

        options: dict[str, Any] = {
            "device": self.device, "precision": self.precision, "batch_invariant": batch_invariant,
        }  # fmt: skip
        return {name: load(source, **options) for name, source in self.sources().items()}


@Parameter(name="*")
@dataclass(frozen=True)
class PromptOptions:
    """What an image is conditioned on, besides its prompt."""

    negative: str | None = None
    """A prompt to guide away from, instead of the null condition."""
    towards: str | None = None
    """A second prompt: the image is conditioned on a blend of the two."""
    weight: float = 0.5
    """The weight of the second prompt: 0 is the first prompt, 1 the second."""

    def condition(self, prompt: Condition) -> Condition:
        """Return the prompt, or its blend with the second one, which replaces that of a blend."""
        from vqdiff.text import Blend

        if self.towards is None:
            return prompt
        prompt = prompt.first if isinstance(prompt, Blend) else prompt
        if not isinstance(prompt, str):
            raise InputError("--towards needs a prompt to start from")
        return Blend(prompt, self.towards, self.weight)


_FLAG: dict[str, Any] = {"negative": "", "show_default": False}


@Parameter(name="*")
@dataclass(frozen=True)
class PresetOptions:
    """Settings by name."""

    preset: Annotated[
        str | None,
        Parameter(
            help="Settings by name: fast, best or another preset of the model (vqdiff info lists them), or published "
            "ones, such as ithq-guided; the other options override them."
        ),
    ] = None
    fast: Annotated[bool, Parameter(help="--preset fast: quicker than the model's own settings.", **_FLAG)] = False
    best: Annotated[bool, Parameter(help="--preset best: better than the model's own settings.", **_FLAG)] = False

    def preset_name(self) -> str | None:
        """Return the name of the preset, if there is one; raises InputError if there are several."""
        given = [name for name in ("fast", "best") if getattr(self, name)]
        given += [] if self.preset is None else [self.preset]
        if len(given) > 1:
            raise InputError(f"the presets {' and '.join(given)} are given: leave out one of them")
        return given[0] if given else None

    def explicit(self) -> dict[str, Any]:
        """Return the settings that were given, checked; an InputError names the option."""
        given = {name: (one, getattr(self, name)) for name, one in options_of(SamplingSettings).items()}
        return {name: one.check(_option(name), value) for name, (one, value) in given.items() if value is not None}


_ALIASES = {"num_images": "-n"}


def _group(cls: type[Any]) -> type[Any]:
    """Return ``cls`` as a group of options for the command line, with the help and defaults of its fields."""
    members = [
        (name, Annotated[one.type, _parameter(name, one)], option(getattr(cls, name), one))
        for name, one in options_of(cls).items()
    ]
    return Parameter(name="*")(make_dataclass(cls.__name__, members, frozen=True, namespace={"__module__": __name__}))


def _optional(cls: type[Any], default: Callable[[str], str], bases: tuple[type[Any], ...] = ()) -> type[Any]:
    """Return ``cls`` as a group of options that are None unless they are given; ``default`` is what the help shows."""
    members = [
        (name, Annotated[one.type | None, _parameter(name, one, show_default=default(name))], option(None, one))
        for name, one in options_of(cls).items()
    ]
    return Parameter(name="*")(
        make_dataclass(cls.__name__, members, bases=bases, frozen=True, namespace={"__module__": __name__})
    )


def _parameter(name: str, one: Option, **more: Any) -> Parameter:
    installed = one.installed() if isinstance(one, Choice) else []
    of_others = f" Of other packages: {', '.join(installed)}." if installed else ""
    return Parameter(help=one.help + of_others, alias=_ALIASES.get(name), negative="", **more)


def _models_own(name: str) -> str:
    """The default of a sampling setting: that of the model, such as the bundled one."""
    config = json.loads((Path(__file__).parents[1] / "models" / "emoji" / "model_index.json").read_text("utf-8"))
    value = config["sampling"].get(name, getattr(SamplingSettings, name))  # unchecked: the samplers need torch
    shown = " ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value).removesuffix(".0")
    return f"the model's own; emoji: {shown}"


def checked(group: object) -> dict[str, Any]:
    """Return the values of a group of options; an InputError names the option as it is on the command line."""
    return {name: one.check(_option(name), getattr(group, name)) for name, one in options_of(type(group)).items()}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if TYPE_CHECKING:
    from vqdiff.settings import EditOptions, ExpandOptions, ImagesOptions, ReviseOptions, VaryOptions

    class DrawOptions:
        """The fields of `ImagesOptions`; those not given are None."""

    class SettingOptions(PresetOptions):
        """The fields of `SamplingSettings`; those not given default to those of the preset, or the model's own."""
else:
    EditOptions, ExpandOptions = _group(settings.EditOptions), _group(settings.ExpandOptions)
    ImagesOptions, ReviseOptions = _group(settings.ImagesOptions), _group(settings.ReviseOptions)
    VaryOptions = _group(settings.VaryOptions)
    DrawOptions = _optional(settings.ImagesOptions, lambda name: str(getattr(settings.ImagesOptions, name)))
    SettingOptions = _optional(SamplingSettings, _models_own, (PresetOptions,))
