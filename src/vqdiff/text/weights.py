r"""Prompt weights: ``(red:1.4) apple`` scales the influence of a word; ``\(`` and ``\)`` are literal parentheses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float

LARGEST = 10
"""The largest weight."""

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_PART = re.compile(
    r"(?P<pairs>(?:\\\\)+)(?=\\?[()])|\\(?P<literal>[()])|(?P<open>\()"
    rf"|:(?P<weight>\s*{_NUMBER}\s*|[+-]?(?:nan|inf(?:inity)?))\)|(?P<close>\))|[^\\():]+|[\\:]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class WeightedPrompt:
    """The text of a prompt without the notation of weights, and the weight of each of its characters."""

    text: str
    weights: tuple[float, ...]

    @property
    def plain(self) -> bool:
        """Whether all weights are 1."""
        return all(weight == 1 for weight in self.weights)


def parse_weights(prompt: str) -> WeightedPrompt:
    r"""Read ``(text:number)``; weights of parentheses inside each other are multiplied.

    Parentheses of another form are part of the text, and ``\(`` and ``\)`` are always; other backslashes are kept.
    Raises InputError for a weight that is not above 0 and at most `LARGEST`.
    """
    characters, weights, opened = list[str](), list[float](), list[int]()
    for part in _PART.finditer(prompt):
        shown = part["literal"] or part[0]
        if part["pairs"]:
            shown = shown[::2]
        elif part["open"]:
            opened.append(len(characters))
        elif part["close"] or part["weight"]:
            start = opened.pop() if opened else len(characters)
            if part["weight"] and any(not one.isspace() for one in characters[start + 1 :]):
                scaled = [one * float(part["weight"]) for one in weights[start + 1 :]]
                if not all(0 < one <= LARGEST for one in scaled):
                    raise _wrong_weight("".join(characters[start:]) + shown)
                characters[start:], weights[start:] = characters[start + 1 :], scaled
                continue
        characters += shown
        weights += [1.0] * len(shown)
    return WeightedPrompt("".join(characters), tuple(weights))


def plain_text(prompt: str) -> str:
    """Return the text that is encoded: the prompt without its weights."""
    return parse_weights(prompt).text


def literal(caption: str) -> str:
    """Return a prompt that means exactly ``caption``, whatever parentheses it has."""
    try:
        if parse_weights(caption) == WeightedPrompt(caption, (1.0,) * len(caption)):
            return caption
    except InputError:
        pass
    return re.sub(r"(\\*)([()])", r"\1\1\\\2", caption)


def token_weights(
    characters: Sequence[tuple[str, float]], tokens: Iterable[tuple[int, int]], count: int
) -> Float[Tensor, "N"]:
    """Return the weights of ``count`` tokens: that of the first character of each which is not a space.

    characters: with their weights. tokens: where each starts and ends; special tokens are empty. The rest is padding.
    """
    found = torch.ones(count)
    for index, (start, stop) in enumerate(list(tokens)[:count]):
        weights = (weight for char, weight in characters[start:stop] if not char.isspace())
        found[index] = next(weights, 1.0)
    return found


def _wrong_weight(group: str) -> InputError:
    shown = group if len(group) <= 60 else f"{group[:40]}…{group[-19:]}"
    return InputError(
        rf"the weight in {shown} must be above 0 and at most {LARGEST}: change it, or write \( and \) for parentheses"
    )
