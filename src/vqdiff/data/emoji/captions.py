"""Captions and train/test splits of the emoji set; both depend on hashed names only, so they survive a rebuild."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TONE_NAMES = ("", "light", "medium-light", "medium", "medium-dark", "dark")


def fraction(*key: str) -> float:
    """A number in [0, 1) that depends only on ``key``."""
    return int(hashlib.sha1("|".join(key).encode()).hexdigest()[:13], 16) / 16**13


def captions(name: str, keywords: Sequence[str], tones: Sequence[int], style: str, icon: str) -> list[str]:
    """Three to five ways to say what one picture shows; the first is the canonical one."""
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


def split(*, role: str, gender: str, base: str, tones: str, tone: int, style: str, compositional: bool) -> str:
    """The split of one picture.

    - ``test_concept``: 3 % of the roles, in all styles; what is shown is new.
    - ``test_comp``: 8 % of the role × gender × skin tone cells, in all styles; the factors are known, not together.
    - ``test_style``: 4 % of the emoji × style cells; the emoji and the style are known, not together.
    - ``train``: the rest.
    """
    if fraction("concept", role) < 0.03:
        return "test_concept"
    if compositional and tone > 0 and fraction("grid", role, gender, tones) < 0.08:
        return "test_comp"
    if fraction("cell", base, tones, style) < 0.04:
        return "test_style"
    return "train"
