"""Captions and train/test splits of the emoji set; they depend only on hashes of names and survive a rebuild."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vqdiff.recipes.emoji.words import with_article

TONE_NAMES = ("", "light", "medium-light", "medium", "medium-dark", "dark")


def fraction(*key: str) -> float:
    """A number in [0, 1) that depends only on ``key``."""
    return int(hashlib.sha1("|".join(key).encode()).hexdigest()[:13], 16) / 16**13


def captions(name: str, keywords: Sequence[str], tones: Sequence[int], style: str, icon: str) -> list[str]:
    """Three to five captions of an image; the first is the canonical one."""
    words = " and ".join(dict.fromkeys(TONE_NAMES[tone] for tone in tones))
    plural = "s" if len(set(tones)) > 1 else ""
    what = f"{name} with {words} skin tone{plural}" if words else name
    forms = [f"{what}, {style} style", f"{style} style emoji of {what}", what]
    if keywords:
        first = int(fraction(style, icon) * 997) % len(keywords)
        pair = dict.fromkeys((keywords[first], keywords[(first + 1) % len(keywords)]))
        tone = [f"{words} skin tone"] if words else []
        forms.append(f"{what} ({', '.join(pair)}), {style} style")
        forms.append(", ".join([*keywords[:4], *tone, f"{style} style"]))
    return forms


def more_captions(name: str, tones: Sequence[int], style: str, icon: str, group: str) -> list[str]:
    """Further captions of a drawing of the train split: with articles, in other orders."""
    words = " and ".join(dict.fromkeys(TONE_NAMES[tone] for tone in tones))
    what = with_article(name) if group not in ("symbols", "flags") else name
    if words:
        what = f"{what} with {words} skin tone{'s' if len(set(tones)) > 1 else ''}"
    plain = what if what != name else f"emoji of {what}"
    others = (f"{what} in {style} style", f"{style} style, {what}", f"a drawing of {what}, {style} style",
              f"{what}, drawn in the style of {style}")  # fmt: skip
    return [plain, others[int(fraction("order", style, icon) * len(others))]]


def kind_captions(name: str, style: str, words: Sequence[str], key: str) -> list[str]:
    """Captions of an icon, whose name may not be a noun."""
    forms = [f"{name}, {style} style", name, f"{style} style icon of {name}"]
    if words:
        word = words[int(fraction("word", style, key) * len(words))]
        forms += [f"{name} ({word}), {style} style", ", ".join([name, *words[:3], f"{style} style"])]
    return list(dict.fromkeys(forms))


def join_words(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def concept_is_held_out(role: str) -> bool:
    """Whether a role is held out entirely from the train split."""
    return fraction("concept", role) < 0.03


def split(*, role: str, gender: str, base: str, tones: str, tone: int, style: str, compositional: bool) -> str:
    """The split of one image.

    - ``test_concept``: 3 % of the roles, in all styles; the concept is new.
    - ``test_comp``: 8 % of the role × gender × skin tone cells, in all styles; the factors are known, the combination
    new. - ``test_style``: 4 % of the emoji × style cells; the emoji and the style are known, the combination new.
    - ``train``: the rest.
    """
    if concept_is_held_out(role):
        return "test_concept"
    if compositional and tone > 0 and fraction("grid", role, gender, tones) < 0.08:
        return "test_comp"
    if fraction("cell", base, tones, style) < 0.04:
        return "test_style"
    return "train"
