"""What is measured, and how: the configuration that `vqdiff evaluate` and `vqdiff study` share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vqdiff.data import HELD_OUT, check_share
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import derived
from vqdiff.settings import SamplingSettings
from vqdiff.training.resuming import RunRecord

_FEWEST = 10
"""Number of images below which neighbourhoods and splits are meaningless."""

Null = Literal["own", "empty", "zero"]
"""The model's own null condition; that of the empty caption; zeros."""


@dataclass(frozen=True)
class Trial:
    """What is measured, in the same way for every model; results of the same trial may be compared."""

    data: str | Path
    prompts: str = "test_style"
    """The split from whose captions images are generated, one each; of a set of classes alone, from their names."""
    reference: str = "test_style"
    """The split of real images to compare with."""
    validation: float = HELD_OUT
    """The share of the images that is the split ``test``, if the set has no other split than ``train``."""
    num_pictures: int = 0
    """How many captions of the split to use, evenly spaced; 0 for all."""
    seeds: tuple[int, ...] = (0, 1_000_000, 2_000_000)
    """One repetition per seed; image i of a repetition has its seed + i."""
    choices: int = 100
    """Number of captions that R-precision chooses among."""
    scorers: tuple[str, ...] = ("emoji", "emoji_check")
    """Names of bundled scorers, or folders of your own; the directions of the first one are used for `fd_effnet`."""
    inception: Path | None = None
    """A TorchScript file of Inception: adds FID, KID and the Inception score."""
    clip: Path | None = None
    """A CLIP folder: adds CLIP score and R-precision."""
    drawn: Path = Path("runs/drawn")
    """Where generated tokens are stored; those found there are not generated again."""
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("seeds", "scorers"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: give at least one")
        if self.batch_size < 1 or self.num_pictures < 0 or self.choices < 2:
            raise InputError("batch_size must be at least 1, num_pictures at least 0 and choices at least 2")
        check_share(self.validation)

    def check_captions(self, captions: Sequence[str]) -> None:
        """Raise InputError if there are too few captions, or too few different ones to choose among."""
        found, more = len(captions), "raise num_pictures or add images" if self.num_pictures else "add images"
        if found < _FEWEST:
            raise InputError(f"{self.prompts} gives {found} captions, and at least {_FEWEST} images are needed: {more}")
        if (different := len(set(captions))) < self.choices:
            raise InputError(
                f"choices is {self.choices}, and the {found} images of {self.prompts} have {different} different "
                f"captions: set trial.choices to {different} or less, or {more}"
            )

    def check_reference(self, num_reference: int) -> None:
        """Raise InputError if there are too few real images."""
        if num_reference < _FEWEST:
            raise InputError(f"{self.reference} has {num_reference} images, at least {_FEWEST} are needed: add images")

    def overlap(self, model: str) -> str | None:
        """Return a warning if ``model`` is a run on the same data that held out another share: it has seen the images.

        None too where the folder does not tell.
        """
        folder = Path(model)
        record = RunRecord.read(folder) or RunRecord.read(folder.parent)
        settings = {} if record is None else record.settings
        share = settings.get("validation", self.validation)
        if str(settings.get("data")) != str(self.data) or share == self.validation:
            return None
        return (
            f"{model} was trained on {self.data} with validation = {share}, and trial.validation is {self.validation}: "
            "if the set has no split but train, the model was trained on some of the images that it is measured on"
        )

    def check_seeds(self, num_pictures: int) -> None:
        """Raise InputError if two repetitions would use the same seeds."""
        for low, high in itertools.pairwise(sorted(self.seeds)):
            if high - low < num_pictures:
                raise InputError(
                    f"the seeds {low} and {high} are nearer than the {num_pictures} images of a repetition"
                )


if TYPE_CHECKING:

    class Choices:
        """Sampling settings; those left out are the model's own."""

        def __init__(self, **values: object) -> None: ...
else:
    Choices = derived("Choices", SamplingSettings, lambda one: one.type | None, None)


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a model with a null condition and settings, or its image tokenizer alone."""

    model: str = "emoji"
    null: Null = "own"
    sampling: Choices = field(default_factory=Choices)
    reconstruct: bool = False
