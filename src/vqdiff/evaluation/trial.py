"""What is measured, and how: the configuration that `vqdiff evaluate` and `vqdiff study` share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import derived
from vqdiff.settings import SamplingSettings

Null = Literal["own", "empty", "zero"]
"""The model's own null condition; that of the empty caption; zeros."""


@dataclass(frozen=True)
class Trial:
    """What is asked of every model alike; two results of one trial may be compared."""

    data: Path
    prompts: str = "test_style"
    """The split whose captions are drawn, one picture each."""
    reference: str = "test_style"
    """The split of real pictures to compare with."""
    num_pictures: int = 0
    """How many captions of the split, evenly spread; 0 for all."""
    seeds: tuple[int, ...] = (0, 1_000_000, 2_000_000)
    """A repetition each; picture i of a repetition has its seed + i."""
    choices: int = 100
    """Captions that R-precision chooses among."""
    scorers: tuple[str, ...] = ("emoji", "emoji_check")
    """Names of scorers in the package, or folders of one's own; the first one's directions serve `fd_effnet`."""
    inception: Path | None = None
    """A TorchScript file of Inception: adds FID, KID and the Inception score."""
    clip: Path | None = None
    """A CLIP folder: adds CLIP score and R-precision."""
    drawn: Path = Path("runs/drawn")
    """Where drawn tokens are kept; what is there is not drawn again."""
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("seeds", "scorers"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: give at least one")
        if self.batch_size < 1 or self.num_pictures < 0 or self.choices < 2:
            raise InputError("batch_size must be at least 1, num_pictures at least 0 and choices at least 2")
        if not self.data.is_dir():
            raise InputError(f"{self.data} is no folder: build it with `vqdiff data emoji -o {self.data}`")

    def check_seeds(self, num_pictures: int) -> None:
        """Raise InputError if two repetitions would draw with the same seeds."""
        for low, high in itertools.pairwise(sorted(self.seeds)):
            if high - low < num_pictures:
                raise InputError(
                    f"the seeds {low} and {high} are nearer than the {num_pictures} pictures of a repetition"
                )


if TYPE_CHECKING:

    class Choices:
        """Sampling settings of one's own; those left out are the model's."""

        def __init__(self, **values: Any) -> None: ...
else:
    Choices = derived("Choices", SamplingSettings, lambda one: one.type | None, None)


@dataclass(frozen=True)
class Cell:
    """One thing to be measured: a model with a null condition and settings, or its image tokenizer alone."""

    model: str = "emoji"
    null: Null = "own"
    sampling: Choices = field(default_factory=Choices)
    reconstruct: bool = False
