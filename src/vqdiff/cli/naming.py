"""Names of many images: from a pattern, safe on every system, none twice."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from vqdiff.foundation.errors import InputError, unknown

FIELDS = ("index", "prompt", "seed")

_LONGEST = 120  # bytes of a name: some file systems allow 143, and programs add to it
_UNSHOWN = ("Cc", "Cf", "Cn", "Co", "Cs")  # categories of characters
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\s]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)


def check_pattern(pattern: str) -> None:
    """Raise InputError for a pattern that has another field than `FIELDS`, or cannot be formatted."""
    try:
        for _, field, _, _ in Formatter().parse(pattern):
            if field is not None and field not in FIELDS:
                raise unknown("field in --name", field, FIELDS)
        pattern.format(index=0, prompt="", seed=0)
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--name is {pattern!r}: {error}; give a pattern such as '{{index:03}}-{{prompt}}'") from error


def names(pattern: str, images: Iterable[tuple[str, int]], suffix: str, taken: Iterable[str] = ()) -> list[str]:
    """Return a file name for each image, of a prompt and a seed, at most 120 bytes long with ``suffix``.

    Letters of every script are kept. Of a name that is too long, the prompt is cut. A name that is ``taken``, or equal
    to an earlier one where case does not count, gets a number at its end.
    """
    used = {_folded(name) for name in taken}
    numbers = Counter[str]()
    found = list[str]()
    for index, (prompt, seed) in enumerate(images):
        values = {"index": index, "seed": seed}
        name = _fitting(pattern, values, prompt, suffix)
        same = _folded(name)
        while _folded(name) in used:
            numbers[same] += 1
            name = _fitting(pattern, values, prompt, f"-{numbers[same] + 1}{suffix}")
        used.add(_folded(name))
        found.append(name)
    return found


def _fitting(pattern: str, values: dict[str, Any], prompt: str, end: str) -> str:
    """The name with as much of the prompt as fits."""
    letters = unicodedata.normalize("NFC", prompt)[:_LONGEST]
    while True:
        name = _safe(pattern.format(prompt=letters, **values))
        if len((name + end).encode()) <= _LONGEST:
            return name + end
        if not letters:  # the pattern itself is too long
            return name.encode()[: _LONGEST - len(end.encode())].decode("utf-8", "ignore") + end
        letters = letters[:-1]


def _safe(text: str) -> str:
    plain = "".join(" " if unicodedata.category(letter) in _UNSHOWN else letter for letter in text)
    name = _FORBIDDEN.sub("-", plain).strip(". -")
    return f"_{name}" if _RESERVED.match(name) else name or "image"


def _folded(name: str) -> str:
    """What file systems that ignore case compare."""
    return unicodedata.normalize("NFC", name).casefold()


def quoted(prompts: Sequence[object]) -> str:
    """Return prompts, or the first of a blend, as a line shows them: two in quotes and cut, and how many are left."""
    plain = [one["first"] if isinstance(one, Mapping) else one for one in prompts]
    shown = [repr(one if len(one) <= 40 else one[:39] + "…") if isinstance(one, str) else str(one) for one in plain]
    left = f", … ({len(shown) - 2} more)" if len(shown) > 3 else ""
    return ", ".join(shown[: 2 if left else 3]) + left
