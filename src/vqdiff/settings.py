"""The sampling settings of one image, and the options of requests.

Imports no torch: the options of the command line are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from vqdiff.foundation.config import build
from vqdiff.foundation.errors import unknown
from vqdiff.foundation.html import table
from vqdiff.foundation.options import Choice, Interval, Number, Whole, check_options, checked, option, options_of
from vqdiff.plugins import CURVES, GUIDES, SAMPLERS

__all__ = [
    "CallSettings",
    "EditOptions",
    "ExpandOptions",
    "Guidance",
    "GuidanceSchedule",
    "ImagesOptions",
    "Pruning",
    "Ranking",
    "ReviseOptions",
    "SamplingSettings",
    "SeedOptions",
    "SettingChanges",
    "TemperatureSchedule",
    "VaryOptions",
]

GuidanceSchedule = Literal["constant", "linear", "cosine", "falling"]
TemperatureSchedule = Literal["constant", "falling"]
Ranking = Literal["likelihood", "text", "scorer"]
Pruning = Literal["none", "halving"]

_LARGEST = 1e6  # above this, products with log-probabilities overflow float32


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample an image; checked on creation.

    Raises InputError, with the field, for a value that its option does not allow.
    """

    sampler: str = option(
        "purity",
        Choice(
            help=f"How to sample: {', '.join(SAMPLERS.own())}, or one of another package; "
            "vqdiff samplers describes them.",
            kind="sampler",
            names=SAMPLERS.names,
            installed=SAMPLERS.installed,
            name_of=SAMPLERS.name_of,
        ),
    )
    steps: int = option(
        25,
        Whole(
            help="Network calls, 1 to the number of tokens; at most T for samplers of the posterior.",
            legend="{} steps",
            least=1,
        ),
    )
    guidance: float = option(
        3.0,
        Number(
            help="Guidance scale g = s + 1 of Improved VQ-Diffusion; 1 is off.",
            legend="guidance {:g}",
            least=-_LARGEST,
            most=_LARGEST,
            off=1,
            slider=(0, 10, 0.1),
        ),
    )
    guidance_schedule: GuidanceSchedule = option(
        "constant",
        Choice(
            help="linear and cosine rise from 1 in the noise to the guidance scale at the end; falling goes "
            "from the scale to 1.",
            label="Guidance schedule",
            kind="guidance schedule",
            names=lambda: get_args(GuidanceSchedule),
        ),
    )
    guidance_interval: tuple[float, float] = option(
        (0.0, 1.0),
        Interval(
            help="Guide only within this interval of the way from noise (0) to image (1).",
            legend="from {0[0]:g} to {0[1]:g}",
        ),
    )
    truncation: float = option(
        1.0,
        Number(
            help="Share of each prediction's probability mass to keep; 1 is off.",
            legend="truncation {:g}",
            above=0,
            most=1,
            off=1,
            slider=(0.05, 1, 0.01),
        ),
    )
    prior_scale: float = option(
        1.0,
        Number(
            help="r of the purity prior: how strongly confident predictions are sharpened; 0 is off.",
            label="Prior scale",
            legend="r = {:g}",
            least=0,
            most=_LARGEST,
            off=0,
            slider=(0, 10, 0.1),
        ),
    )
    temperature: float = option(
        1.0,
        Number(
            help="Temperature of the tokens: below 1 likely tokens become likelier; 1 is off.",
            legend="temperature {:g}",
            above=0,
            most=100,
            off=1,
            slider=(0.05, 2, 0.01),
        ),
    )
    temperature_schedule: TemperatureSchedule = option(
        "constant",
        Choice(
            help="falling goes from the temperature in the noise towards 0 at the end.",
            label="Temperature schedule",
            kind="temperature schedule",
            names=lambda: get_args(TemperatureSchedule),
        ),
    )
    curve: str = option(
        "linear",
        Choice(
            help="How many tokens are revealed at which step, for samplers that reveal; vqdiff samplers lists the "
            "curves.",
            label="Reveal curve",
            legend="{}",
            kind="reveal curve",
            names=CURVES.names,
            installed=CURVES.installed,
        ),
    )
    curve_power: float = option(
        2.0,
        Number(
            help="p of the reveal curve power: 1 - r^p of the tokens are masked after the part r of the steps.",
            label="Power of the reveal curve",
            legend="p = {:g}",
            above=0,
            most=100,
            slider=(0.25, 4, 0.05),
        ),
    )
    purity_power: float = option(
        1.0,
        Number(
            help="How strongly the order prefers confident positions: its weights are purity to this power. 1 is "
            "Algorithm 2, 0 random; large powers are nearly the sampler confidence.",
            label="Purity power",
            legend="purity^{:g}",
            least=0,
            most=20,
            off=1,
            slider=(0, 20, 0.5),
        ),
    )
    corrector_share: float = option(
        0.03,
        Number(
            help="Share of the tokens that a correcting call draws anew, at least one; for the sampler corrected.",
            label="Share of a correction",
            legend="corrections of {:g}",
            least=0,
            most=1,
            off=0,
        ),
    )
    error: float = option(
        0.0,
        Number(
            help="Nats of error that a step of the sampler entropy-bound may add: as few steps as that needs; 0 takes "
            "all steps, with equal errors.",
            legend="error {:g}",
            least=0,
            most=_LARGEST,
            off=0,
            slider=(0, 20, 0.1),
        ),
    )
    renoise: float = option(
        0.1,
        Number(
            help="How many visible tokens a step of the sampler renoised noises anew, of the most possible; 0 is off.",
            legend="renoise {:g}",
            least=0,
            most=1,
            off=0,
            slider=(0, 1, 0.01),
        ),
    )
    renoise_cap: float = option(
        1.0,
        Number(
            help="Largest probability with which a step of the sampler renoised noises a visible token anew; 1 is off.",
            label="Renoise at most",
            legend="renoise at most {:g}",
            least=0,
            most=1,
            off=1,
            slider=(0, 1, 0.01),
        ),
    )
    renoise_loop: float = option(
        0.0,
        Number(
            help="Share of the calls of the sampler renoised that stay at a time near the end and noise tokens anew "
            "there; then the others noise none. 0 is off: all noise tokens anew.",
            label="Renoise in a loop",
            legend="loop of {:g}",
            least=0,
            most=1,
            off=0,
            slider=(0, 1, 0.01),
        ),
    )
    fix_share: float = option(
        0.05,
        Number(
            help="Share of the visible tokens, the least likely, that a step of the sampler token-fixing draws anew; 0 "
            "is off.",
            label="Share to fix",
            legend="fixing {:g}",
            least=0,
            most=1,
            off=0,
            slider=(0, 1, 0.01),
        ),
    )
    best_of: int = option(
        1,
        Whole(
            help="Candidates for each image, of which the best is returned; 1 is off.",
            label="Best of",
            legend="best of {}",
            least=1,
            most=1000,
            off=1,
        ),
    )
    ranking: Ranking = option(
        "likelihood",
        Choice(
            help="Which candidate is the best: likelihood, the likeliest according to the model itself; text, the one "
            "that the prompt makes likelier by the largest factor; scorer, by the bundled scorer of drawings (extra "
            "eval).",
            label="Ranking of candidates",
            legend="by {}",
            kind="ranking",
            names=lambda: get_args(Ranking),
        ),
    )
    pruning: Pruning = option(
        "none",
        Choice(
            help="none, or halving: the worse half of the candidates ends after a quarter of the steps, and again "
            "after half.",
            label="Pruning of candidates",
            legend="pruning {}",
            kind="pruning",
            names=lambda: get_args(Pruning),
        ),
    )
    guidance_threshold: float = option(
        0.0,
        Number(
            help="Stop guiding an image once its prediction and the one that it is led away from differ by less: the "
            "mean total variation distance at its masked tokens; 0 is off.",
            label="Threshold of guidance",
            legend="guidance while ≥ {:g}",
            least=0,
            most=1,
            off=0,
        ),
    )
    guide: str = option(
        "null",
        Choice(
            help="What guidance leads away from: null, the prediction without the prompt; weaker, that of a weaker "
            "network; skipped-layers, that of the network without some layers; vqdiff samplers lists all.",
            legend="away from {}",
            kind="guide",
            names=GUIDES.names,
            installed=GUIDES.installed,
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def prunes(self) -> bool:
        """Whether some of the candidates end early."""
        return self.best_of > 1 and self.pruning != "none"

    @property
    def ranks_by_text(self) -> bool:
        """Whether candidates are ranked by a comparison of the condition with the null condition."""
        return self.best_of > 1 and self.ranking == "text"

    def _repr_html_(self) -> str:
        rows = [(name, getattr(self, name), one.help) for name, one in options_of(SamplingSettings).items()]
        return table("SamplingSettings", rows)

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> SamplingSettings:
        """Read the settings from a file, in which guidance may be a section, as in earlier versions."""
        values = dict(values)
        if isinstance(guidance := values.get("guidance"), Mapping):
            values |= {"guidance": guidance["scale"]}
            values |= {f"guidance_{name}": guidance[name] for name in ("schedule", "interval") if name in guidance}
        return build(cls, values, where)

    def changed(self, **changes: Any) -> SamplingSettings:
        """Return these settings with ``changes`` (see `SettingChanges`); None changes nothing."""
        options = options_of(SamplingSettings)
        for name in changes:
            if name not in options:
                raise unknown("setting", name, options)
        given = {name: value for name, value in changes.items() if value is not None}
        if isinstance(guidance := given.get("guidance"), Guidance):
            given |= guidance.settings()
        return replace(self, **checked(SamplingSettings, given))


@dataclass(frozen=True)
class Guidance:
    """The three settings of guidance as one value, to pass as `guidance`; checked on creation.

    scale: g = s + 1 of Improved VQ-Diffusion, 1 is off. schedule: "constant", or "linear" or "cosine" for a scale that
    rises from 1 at t = T to `scale` at t = 0, or "falling" for the mirror image of "linear". interval: the part of the
    way from noise (0) to the image (1) that is guided; outside it the scale is 1, and the null condition is not
    evaluated (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Raises InputError for a scale that is not finite or an invalid interval.
    """

    scale: float = 3.0
    schedule: GuidanceSchedule = "constant"
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        options = options_of(SamplingSettings)
        for name, value in self.settings().items():
            options[name].check(name, value)

    @classmethod
    def of(cls, settings: SamplingSettings) -> Guidance:
        """Return the guidance of these settings."""
        return cls(settings.guidance, settings.guidance_schedule, settings.guidance_interval)

    def settings(self) -> dict[str, Any]:
        """Return the fields of `SamplingSettings` that this stands for."""
        return {
            "guidance": self.scale,
            "guidance_schedule": self.schedule,
            "guidance_interval": self.interval,
        }


class SettingChanges(TypedDict, total=False):
    """Fields of `SamplingSettings` to change for one call; None leaves the model's own."""

    sampler: object  # a name, or a `vqdiff.sampling.Sampler` that is registered
    steps: int | None
    guidance: float | Guidance | None
    guidance_schedule: GuidanceSchedule | None
    guidance_interval: tuple[float, float] | None
    truncation: float | None
    prior_scale: float | None
    temperature: float | None
    temperature_schedule: TemperatureSchedule | None
    curve: str | None
    curve_power: float | None
    purity_power: float | None
    corrector_share: float | None
    error: float | None
    renoise: float | None
    renoise_cap: float | None
    renoise_loop: float | None
    fix_share: float | None
    best_of: int | None
    ranking: Ranking | None
    pruning: Pruning | None
    guidance_threshold: float | None
    guide: str | None


class CallSettings(SettingChanges, total=False):
    """`SettingChanges`, and the name of the preset that they change; None is the model's own settings."""

    preset: str | None


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """The option of every request; as with those below, requests and the command line have it from here."""

    seed: int = option(0, Whole(help="Image i has seed + i; the same seed, the same image."))


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(SeedOptions):
    """The options of a request for several images."""

    num_images: int = option(1, Whole(help="Images to generate (of each prompt, where there are several).", least=1))


@dataclass(frozen=True, kw_only=True)
class EditOptions(ImagesOptions):
    """The options of an `EditRequest`."""

    feather: int = option(0, Whole(help="Width in pixels of a soft seam inside the white part.", least=0))


@dataclass(frozen=True, kw_only=True)
class ExpandOptions(ImagesOptions):
    """The options of an `ExpandRequest`."""

    left: int = option(0, Whole(help="Pixels to add at the left."))
    top: int = option(0, Whole(help="Pixels to add at the top."))
    right: int = option(0, Whole(help="Pixels to add at the right."))
    bottom: int = option(0, Whole(help="Pixels to add at the bottom."))
    feather: int = option(0, Whole(help="Width in pixels of a soft seam outside the image.", least=0))


@dataclass(frozen=True, kw_only=True)
class VaryOptions(ImagesOptions):
    """The options of a `VaryRequest`."""

    strength: float = option(0.5, Number(help="0 changes nothing, 1 generates a new image.", least=0, most=1))


@dataclass(frozen=True, kw_only=True)
class ReviseOptions(ImagesOptions):
    """The options of a `ReviseRequest`."""

    share: float = option(0.25, Number(help="Resample this share of the tokens, the least confident.", least=0, most=1))
