"""What an image is conditioned on: a prompt, a label, a blend of two prompts, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import has_lone_surrogates


@dataclass(frozen=True)
class Blend:
    """A condition between two prompts: the linear mixture of the states of their texts, place by place, padding too.

    weight: in [0, 1]; 0 is exactly ``first``, 1 exactly ``second``. Raises InputError outside.
    """

    first: str
    second: str
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"the weight between two prompts is {self.weight}: give a number from 0 to 1")

    @property
    def parts(self) -> tuple[str, str]:
        """The two prompts."""
        return self.first, self.second


Condition = str | int | Blend | None
"""What a picture is asked for: a prompt, a label, something between two prompts, or nothing (∅)."""


def prompts_in(condition: Condition) -> list[str]:
    """The texts of a condition: none, one, or the two of a `Blend`."""
    parts = condition.parts if isinstance(condition, Blend) else (condition,)
    return [part for part in parts if isinstance(part, str)]


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt that says nothing, or that is no valid Unicode."""
    if not prompt.strip():
        raise InputError("the prompt is empty: say what to draw")
    if has_lone_surrogates(prompt):
        raise InputError(
            f"the prompt {prompt!r} has half a character in it (a lone surrogate, or a byte that is not UTF-8): "
            "give valid Unicode"
        )
