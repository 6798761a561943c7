"""Replace emoji in a text by the names that models learn: ``a 🍎`` is ``a red apple``."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

TONES = {"\U0001f3fb": "light", "\U0001f3fc": "medium-light", "\U0001f3fd": "medium", "\U0001f3fe": "medium-dark",
         "\U0001f3ff": "dark"}  # fmt: skip
_EMOJI_STYLE, _TEXT_STYLE = "\ufe0f", "\ufe0e"
_SIGNS = "\u2190"  # below it: digits, ©, ™ …, which are emoji only with a variation selector


@cache
def names() -> dict[str, str]:
    """Return the name of each emoji, by its characters without skin tones and variation selectors."""
    return json.loads((files("vqdiff.text") / "emoji_names.json").read_text("utf-8"))


def spell_out(text: str) -> str:
    """Replace each emoji of a text by its name, including skin tones; a text without emoji is unchanged."""
    if text.isascii():
        return text
    known, longest, starts = _index()
    parts, plain, position = list[tuple[bool, str]](), "", 0
    while position < len(text):
        length, name = _read(text, position, known, longest) if text[position] in starts else (1, "")
        if name:
            parts += [(False, plain), (True, name)]
            plain = ""
        else:
            plain += text[position]
        position += length
    if not parts:
        return text
    return _join([*parts, (False, plain)])


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


def _join(parts: list[tuple[bool, str]]) -> str:
    """Join names and the text between them, with spaces around names and commas between adjacent names."""
    joined, after_name = "", False
    for is_name, part in parts:
        if is_name:
            if after_name:
                joined += ", "
            elif joined and not joined[-1].isspace() and joined[-1] not in "([{\"'“‘-":
                joined += " "
        elif after_name and part.isspace():
            continue  # between two names, or at the end
        elif after_name and part and (part[0].isalnum()):
            joined += " "
        if part:
            joined, after_name = joined + part, is_name
    return joined
