"""What the commands that draw share: options, and pictures that tell how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from vqdiff.pipeline import Pipeline
    from vqdiff.sampling import SamplingSettings
    from vqdiff.text import Condition


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Which model, and where it runs."""

    model: str = "emoji"
    """A bundled model's name, a model or diffusers folder, an original checkpoint (.pth), or a Hub id."""
    image_tokenizer: Path | None = None
    """The image codec's file, where a checkpoint does not hold it."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "auto"
    """auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with."""
    batch_invariant: bool = False
    """On a GPU, compute one image at a time: a picture is then the same in any batch, as on a CPU it always is."""

    def load(self) -> Pipeline:
        """The model, ready to draw."""
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
class Drawing:
    """How to draw; what is not given is the model's own."""

    steps: int | None = None
    """Network calls, 1 to the number of tokens."""
    guidance: float | None = None
    """Guidance scale s + 1 of the paper; 1 is off."""
    guidance_schedule: Literal["constant", "linear", "cosine"] | None = None
    """linear and cosine rise from 1 in the noise to the guidance scale at the end."""
    guidance_interval: Annotated[tuple[float, float] | None, Parameter(negative="")] = None
    """Guide only from here to there on the way from noise (0) to picture (1)."""
    negative: str | None = None
    """What to lead away from, in place of the null condition."""
    towards: str | None = None
    """A second prompt: draw what lies between the two."""
    weight: float = 0.5
    """Where between: 0 is the prompt, 1 the second one."""
    sampler: str | None = None
    """One of vqdiff.samplers()."""
    truncation: float | None = None
    """Share of each prediction's mass that is kept; 1 is off."""
    prior_scale: float | None = None
    """r of the purity prior: how much confident predictions are sharpened."""

    def settings(self, own: SamplingSettings) -> SamplingSettings:
        """The settings ``own`` with what was given in their place."""
        names = ("steps", "sampler", "truncation", "prior_scale", "guidance", "guidance_schedule", "guidance_interval")
        return own.changed(**{name: getattr(self, name) for name in names})

    def condition(self, prompt: str | int | None) -> Condition:
        """The prompt, or what lies between it and the second one."""
        from vqdiff.text import Blend

        if self.towards is None:
            return prompt
        if not isinstance(prompt, str):
            raise InputError("--towards needs a prompt to start from")
        return Blend(prompt, self.towards, self.weight)

    def record(self, pipe: Pipeline, settings: SamplingSettings) -> dict[str, Any]:
        """What a picture's metadata say of its making, besides prompt and seed."""
        record: dict[str, Any] = asdict(settings)
        if self.negative is not None:
            record["negative"] = self.negative
        if self.towards is not None:
            record |= {"towards": self.towards, "weight": self.weight}
        return record | pipe.model.identity()


def write_png(picture: Image.Image, record: dict[str, Any], path: Path) -> None:
    """Write a picture with a record of its making inside."""
    from vqdiff.foundation.files import atomic_path
    from vqdiff.foundation.images import encode_png

    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(picture, record))


def draw(
    make: Callable[..., Image.Image],
    image: Path,
    source: Source,
    drawing: Drawing,
    *,
    prompt: str | None,
    seed: int,
    record: dict[str, Any],
    output: Path,
    json_output: bool,
) -> None:
    """Call ``make(pipe, picture, prompt=…, seed=…, negative=…, steps=…, …)``, write what it draws, and say so."""
    from vqdiff.foundation.files import check_writable
    from vqdiff.foundation.images import read_picture

    check_writable(output)
    given = read_picture(image)
    pipe = source.load()
    settings = drawing.settings(pipe.model.sampling)
    picture = make(
        pipe, given, prompt=drawing.condition(prompt), seed=seed, negative=drawing.negative, **vars(settings)
    )
    record = {"prompt": prompt, "seed": seed} | record | drawing.record(pipe, settings)
    write_png(picture, record, output)
    print(json.dumps(record | {"output": str(output)}) if json_output else f"{output}: seed {seed}")
