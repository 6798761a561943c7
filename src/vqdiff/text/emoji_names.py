"""Replace emoji in a text by the names that models learn: ``a 🍎`` is ``a red apple``."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

TONES = {"\U0001f3fb": "light", "\U0001f3fc": "medium-light", "\U0001f3fd": "medium", "\U0001f3fe": "medium-dark",
         "\U0001f3ff": "dark"}  # fmt: skip
_EMOJI_STYLE, _TEXT_STYLE = "\ufe0f", "\ufe0e"
_Char = tuple[str, int | None]
_Part = tuple[bool, list[_Char]]
_SIGNS = "\u2190"  # below it: digits, ©, ™ …, which are emoji only with a variation selector


@cache
def names() -> dict[str, str]:
    """Return the name of each emoji, by its characters without skin tones and variation selectors."""
    return json.loads((files("vqdiff.text") / "emoji_names.json").read_text("utf-8"))


def spell_out(text: str) -> str:
    """Replace each emoji of a text by its name, including skin tones; a text without emoji is unchanged."""
    return text if text.isascii() else "".join(char for char, _ in spelled(text))


def spelled(text: str) -> list[tuple[str, int | None]]:
    """Return the characters of `spell_out`, each with the position in ``text`` that it comes from, if any."""
    plain = [(char, position) for position, char in enumerate(text)]
    if text.isascii():
        return [*plain]
    known, longest, starts = _index()
    parts, rest, position = list[_Part](), list[_Char](), 0
    while position < len(text):
        length, name = _read(text, position, known, longest) if text[position] in starts else (1, "")
        if name:
            parts += [(False, rest), (True, [(char, position) for char in name])]
            rest = []
        else:
            rest += plain[position : position + length]
        position += length
    return _join([*parts, (False, rest)]) if parts else [*plain]


@cache
def _index() -> tuple[dict[str, str], int, frozenset[str]]:
    known = names()
    return known, max(map(len, known)), frozenset(emoji[0] for emoji in known)


def _read(text: str, start: int, known: dict[str, str], longest: int) -> tuple[int, str]:
    """Return the length in characters and the name of the longest emoji at ``start``; (1, "") if there is none."""
    bare, tones, found, end = "", list[str](), (1, ""), start
    shown = text[start] >= _SIGNS
    while end < len(text) and len(bare) <= longest:
        char = text[end]
        if char in TONES and bare:
            tones.append(TONES[char])
        elif char == _EMOJI_STYLE:
            shown = True
        else:
            bare += char
        end += 1
        if bare in known and shown and text[end : end + 1] not in (_TEXT_STYLE, _EMOJI_STYLE):
            found = end - start, _toned(known[bare], tones)
    return found


def _toned(name: str, tones: list[str]) -> str:
    """Add skin tones to a name as captions do: equal tones once, two different ones both."""
    different = list(dict.fromkeys(tones))
    suffix = f" with {' and '.join(different)} skin tone{'s' if len(different) > 1 else ''}" if different else ""
    return name + suffix


def _join(parts: list[_Part]) -> list[_Char]:
    """Join names and the text between them, with spaces around names and commas between adjacent names."""
    joined, after_name = list[_Char](), False
    for is_name, part in parts:
        first = part[0][0] if part else ""
        if is_name:
            last = joined[-1][0] if joined else " "
            if after_name:
                joined += [(",", None), (" ", None)]
            elif not last.isspace() and last not in "([{\"'“‘-":
                joined.append((" ", None))
        elif after_name and "".join(char for char, _ in part).isspace():
            continue  # between two names, or at the end
        elif after_name and first.isalnum():
            joined.append((" ", None))
        if part:
            joined, after_name = joined + part, is_name
    return joined
