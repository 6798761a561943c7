"""What an image is conditioned on: a prompt, a label, a blend of two prompts, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import has_lone_surrogates
from vqdiff.foundation.options import number_of


@dataclass(frozen=True)
class Blend:
    """A condition between two prompts: linear interpolation of their text features, position by position, with padding.

    weight: in [0, 1]; 0 is exactly ``first``, 1 exactly ``second``.

    Raises InputError for other weights, and for parts that are not text.
    """

    first: str
    second: str
    weight: float = 0.5

    def __post_init__(self) -> None:
        for prompt in self.parts:
            if not isinstance(prompt, str):
                raise InputError(f"a Blend is of two prompts, not of {prompt!r}: give text")
        if not 0 <= number_of("the weight between two prompts", self.weight) <= 1:
            raise InputError(f"the weight between two prompts is {self.weight}: give a number from 0 to 1")

    @property
    def parts(self) -> tuple[str, str]:
        """The two prompts."""
        return self.first, self.second


Condition = str | int | Blend | None
"""What an image is conditioned on: a prompt, a label, a blend of two prompts, or nothing (∅)."""


def prompts_in(condition: Condition) -> list[str]:
    """Return the texts of a condition: none, one, or the two of a `Blend`."""
    parts = condition.parts if isinstance(condition, Blend) else (condition,)
    return [part for part in parts if isinstance(part, str)]


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt that is empty or not valid Unicode."""
    if not prompt.strip():
        raise InputError("the prompt is empty: describe the image to generate")
    if has_lone_surrogates(prompt):
        raise InputError(
            f"the prompt {prompt!r} contains half a character (a lone surrogate, or a byte that is not UTF-8): "
            "give valid Unicode"
        )
