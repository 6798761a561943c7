"""Names and attributes of emoji, from emojibase (Unicode's names and tags) and emojilib (keywords)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAN, WOMAN, PERSON = "1F468", "1F469", "1F9D1"
_ADULTS = {MAN: "man", WOMAN: "woman", PERSON: "person"}
_SIGNS = {"2642": "man", "2640": "woman"}
_JOINER = "200D"
_TONES = {"1F3FB": 1, "1F3FC": 2, "1F3FD": 3, "1F3FE": 4, "1F3FF": 5}
_KEYWORD = re.compile(r"[A-Za-z0-9 '.-]{2,}")


@dataclass(frozen=True)
class Emoji:
    """One Unicode sequence."""

    hexcode: str
    """Its code points, upper-case hexadecimal, joined by ``-``, without variation selectors."""
    base: str
    """The sequence of the same emoji without skin tones."""
    label: str
    """Unicode's name, including skin tones."""
    name: str
    """A phrase for captions, without skin tones."""
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    tones: tuple[int, ...]
    """Skin tone of each person: 1 light … 5 dark; empty for the default yellow."""
    gender: str
    """``man``, ``woman``, ``person`` if the other two also exist, or empty."""
    role: str
    """The concept regardless of the person: the base sequence without gender."""
    has_tones: bool


def normalise(hexcode: str) -> str:
    """Convert to upper case, without the variation selector, about which sources disagree."""
    return "-".join(code for code in hexcode.upper().split("-") if code != "FE0F")


def emoji_table(
    emojibase: Sequence[Mapping[str, Any]], groups: Mapping[str, Any], emojilib: Mapping[str, Sequence[str]]
) -> dict[str, Emoji]:
    """All emoji by hexcode, from emojibase's ``data.json`` and ``groups.json`` and emojilib's keywords.

    Entries without a group (the regional indicator letters) are left out.
    """
    keywords = {
        normalise("-".join(f"{ord(char):X}".zfill(4) for char in key)): value for key, value in emojilib.items()
    }
    entries = [entry for entry in emojibase if "group" in entry]
    roles = {normalise(entry["hexcode"]): _role(normalise(entry["hexcode"])) for entry in entries}
    gendered = {role for role, gender in roles.values() if gender}
    table: dict[str, Emoji] = {}
    for entry in entries:
        base, name = normalise(entry["hexcode"]), phrase(entry["label"])
        role, gender = roles[base]
        words = [*entry.get("tags", ()), *keywords.get(base, ())[1:]]  # emojilib's first keyword is the name again
        for form in (entry, *entry.get("skins", ())):
            hexcode = normalise(form["hexcode"])
            table[hexcode] = Emoji(
                hexcode=hexcode,
                base=base,
                label=form["label"],
                name=name,
                keywords=_keywords(words, name),
                group=groups["groups"][str(entry["group"])],
                subgroup=groups["subgroups"][str(entry["subgroup"])],
                tones=tuple(_TONES[code] for code in hexcode.split("-") if code in _TONES),
                gender=gender or ("person" if role in gendered else ""),
                role=role,
                has_tones="skins" in entry,
            )
    return table


def phrase(label: str) -> str:
    """Rephrase a Unicode name: ``flag: Japan`` → ``flag of Japan``, ``man: red hair`` → ``man with red hair``."""
    label = label.replace("’", "'")
    head, colon, tail = label.partition(": ")
    if not colon:
        return label
    if head == "flag":
        return f"flag of {tail}"
    if head in ("family", "kiss", "couple with heart"):
        *others, last = tail.split(", ")
        return f"{head} of {', '.join(others)} and {last}"
    if tail == "bald":
        return f"bald {head}"
    if head == "keycap" or tail.startswith("facing"):
        return f"{head} {tail}"
    return f"{head} with {tail}"


def _role(base: str) -> tuple[str, str]:
    """Role and gender of a sequence; a lone adult becomes ``P``, a gender sign is dropped, groups have no gender."""
    codes = base.split("-")
    signs = [code for code in codes[1:] if code in _SIGNS]
    if signs:
        return base.replace(f"-{_JOINER}-{signs[0]}", ""), _SIGNS[signs[0]]
    adults = [code for code in codes if code in _ADULTS]
    if len(adults) == 1:
        return base.replace(adults[0], "P"), _ADULTS[adults[0]]
    return base, ""


def _keywords(words: Sequence[str], name: str) -> tuple[str, ...]:
    """Plain words that are not in the name, without duplicates."""
    plain = (word.replace("_", " ") for word in words)
    return tuple(dict.fromkeys(word for word in plain if _KEYWORD.fullmatch(word) and word.lower() not in name.lower()))


def spoken_names(table: Mapping[str, Emoji]) -> dict[str, str]:
    """The names of all emoji by their characters without skin tones, for `vqdiff.text.emoji_names`."""
    names: dict[str, str] = {}
    for emoji in (*(one for one in table.values() if not one.tones), *table.values()):
        codes = [code for code in emoji.hexcode.split("-") if code not in _TONES]
        if codes:
            names.setdefault("".join(chr(int(code, 16)) for code in codes), emoji.name)
    return names
