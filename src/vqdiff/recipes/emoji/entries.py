"""The table of the emoji set: one row per drawing, before and after merging drawings that look the same."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqdiff.recipes.emoji import packages
from vqdiff.recipes.emoji.captions import captions, more_captions, split
from vqdiff.recipes.emoji.names import NameIndex, match_file_names, match_iconify
from vqdiff.recipes.emoji.packages import EMOJIBASE, EMOJILIB, STYLES, Package, Style
from vqdiff.recipes.emoji.render import svg_document
from vqdiff.recipes.emoji.unicode import Emoji, emoji_table

MAX_CAPTIONS = 12  # of a row for several sequences
_KEPT_KEYWORDS = 16
# If sources disagree about a spelling, the earlier source is used.
_SHORTCODES = ("emojibase-legacy", "iamcal", "github", "emojibase", "joypixels")
_OUTLINE_TONES = {2: (1,), 3: (4,)}  # the numbered drawings of "outline": 1 yellow, 2 light, 3 brown


@dataclass
class EmojiRow:
    """One drawing and everything known about it."""

    style: Style
    icon: str
    number: int
    emoji: Emoji
    tones: tuple[int, ...]
    artwork: bytes = field(repr=False)
    """An image file, SVG or other."""
    captions: list[str]
    same_as: list[str] = field(default_factory=list)
    """Other sequences with the same drawing in this style."""

    @property
    def tone(self) -> int:
        """The one skin tone: 0 default yellow, 1 light … 5 dark, −1 a pair of two tones."""
        return -1 if len(set(self.tones)) > 1 else next(iter(self.tones), 0)

    def record(self, compositional: bool) -> dict[str, Any]:
        """The row's columns as they are written, except the image."""
        tones = "-".join(map(str, self.tones))
        emoji = self.emoji
        return {
            "caption": self.captions[0],
            "captions": self.captions,
            "style": self.style.name,
            "icon": self.icon,
            "hexcode": emoji.hexcode,
            "base": emoji.base,
            "name": emoji.name,
            "keywords": list(emoji.keywords[:_KEPT_KEYWORDS]),
            "group": emoji.group,
            "subgroup": emoji.subgroup,
            "tone": self.tone,
            "tones": tones,
            "gender": emoji.gender,
            "role": emoji.role,
            "has_tones": emoji.has_tones,
            "variant": self.number,
            "compositional": compositional,
            "same_as": self.same_as,
            "source": self.style.package.name,
            "version": self.style.package.version,
            "license": self.style.license,
            "split": split(
                role=emoji.role,
                gender=emoji.gender,
                base=emoji.base,
                tones=tones,
                tone=self.tone,
                style=self.style.name,
                compositional=compositional,
            ),
        }


@dataclass
class Extra:
    """An image that is not an emoji drawing; always in the train split."""

    kind: str
    style: Style
    icon: str
    artwork: bytes = field(repr=False)
    name: str
    captions: list[str]
    keywords: tuple[str, ...]
    role: str
    group: str
    subgroup: str

    def record(self) -> dict[str, Any]:
        """The columns as they are written, except the image."""
        return _NOTHING | {
            "caption": self.captions[0],
            "captions": self.captions,
            "style": self.style.name,
            "icon": self.icon,
            "name": self.name,
            "keywords": list(self.keywords[:_KEPT_KEYWORDS]),
            "group": self.group,
            "subgroup": self.subgroup,
            "role": self.role,
            "source": self.style.package.name,
            "version": self.style.package.version,
            "license": self.style.license,
            "split": "train",
            "kind": self.kind,
        }


_NOTHING: dict[str, Any] = {
    "hexcode": "",
    "base": "",
    "tone": 0,
    "tones": "",
    "gender": "",
    "has_tones": False,
    "variant": 0,
    "compositional": False,
    "same_as": [],
    "made_of": [],
}


@dataclass(frozen=True)
class EmojiNames:
    """All emoji and their names."""

    table: Mapping[str, Emoji]
    """By hexcode."""
    pairs: Sequence[tuple[str, str]]
    """Names and hexcodes, in the order of precedence of the sources."""

    @classmethod
    def read(cls, archives: Mapping[Package, Path]) -> EmojiNames:
        """Read them from emojibase and emojilib."""
        table = _table(archives)
        return cls(table, list(_names(table, archives)))

    def index(self, chars: Iterable[Mapping[str, str]] = ()) -> NameIndex:
        """Make an index of names; those of ``chars`` (hexcode → name) take precedence."""
        index = NameIndex(self.table)
        for own in chars:
            index.add((name, hexcode) for hexcode, name in own.items())
        index.add(self.pairs)
        return index


def read_rows(archives: Mapping[Package, Path], names: EmojiNames) -> list[EmojiRow]:
    """All drawings with a known meaning, style by style and sorted by icon name within a style."""
    table = names.table
    sets = {style: packages.read(archives[style.package], "icons.json", "chars.json", "assets/") for style in STYLES}
    parsed = {
        style: {name.removesuffix(".json"): json.loads(data) for name, data in files.items() if name.endswith(".json")}
        for style, files in sets.items()
    }
    chars = {style: files.get("chars", {}) for style, files in parsed.items()}
    index = names.index(chars.values())
    rows: list[EmojiRow] = []
    for style in STYLES:
        if "icons" in parsed[style]:
            icon_set = parsed[style]["icons"]
            for icon, (hexcode, number) in match_iconify(icon_set, index, chars[style]).items():
                if hexcode in table:
                    rows.append(_row(style, icon, number, table[hexcode], svg_document(icon_set, icon)))
        else:
            for name, (hexcode, number) in match_file_names(sets[style]).items():
                if hexcode in table:
                    icon = name.rpartition("/")[2]
                    rows.append(_row(style, icon, number, table[hexcode], sets[style][name]))
    return rows


def merge(rows: Sequence[EmojiRow], pictures: Iterable[bytes]) -> list[int]:
    """Merge drawings with the same image; return the positions of the rows that stay, in order.

    Within a style, the first row receives the captions of the others; among styles, the first keeps the image.
    ``pictures`` are the rows' images, or digests of them, in the same order.
    """
    first: dict[bytes, int] = {}
    for position, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        kept = rows[first.setdefault(picture, position)]
        if kept is row or kept.style is not row.style:
            continue
        if row.emoji.hexcode not in (kept.emoji.hexcode, *kept.same_as):
            kept.same_as.append(row.emoji.hexcode)
        kept.captions = list(dict.fromkeys(kept.captions + row.captions))[:MAX_CAPTIONS]
    return sorted(first.values())


def records(rows: Sequence[EmojiRow]) -> list[dict[str, Any]]:
    """The written columns of ``rows``; a role is "compositional" if it is drawn for at least two genders."""
    genders: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        genders[row.emoji.role].add(row.emoji.gender)
    return [row.record(len(genders[row.emoji.role] - {""}) > 1) for row in rows]


def join_others(rows: Sequence[EmojiRow], table: Sequence[dict[str, Any]]) -> None:
    """Adapt the records of drawings to a set with other kinds, with more captions in the train split.

    The captions of the other splits are the prompts of evaluations, and stay.
    """
    for row, record in zip(rows, table, strict=True):
        record |= {"kind": "drawing", "made_of": []}
        if record["split"] == "train":
            further = more_captions(row.emoji.name, row.tones, row.style.name, row.icon, row.emoji.group)
            record["captions"] = list(dict.fromkeys([*row.captions, *further]))


def weigh(table: Sequence[dict[str, Any]]) -> None:
    """Set the weight of each row: in every split, each kind has a total of 1, and a role √(its rows) within it."""
    counts = Counter((record["split"], record["kind"], record["role"]) for record in table)
    totals = defaultdict[tuple[str, str], float](float)
    for (split_name, kind, _), count in counts.items():
        totals[split_name, kind] += count**0.5
    for record in table:
        kind = record["split"], record["kind"]
        record["weight"] = 1 / (counts[*kind, record["role"]] ** 0.5 * totals[kind])


def _row(style: Style, icon: str, number: int, emoji: Emoji, artwork: bytes) -> EmojiRow:
    tones = _OUTLINE_TONES.get(number, ()) if emoji.has_tones and number else emoji.tones
    forms = captions(emoji.name, emoji.keywords, tones, style.name, icon)
    return EmojiRow(style, icon, number, emoji, tones, artwork, forms)


def _table(archives: Mapping[Package, Path]) -> dict[str, Emoji]:
    base = packages.read(archives[EMOJIBASE], "en/data.json", "meta/groups.json")
    keywords = packages.read(archives[EMOJILIB], "dist/emoji-en-US.json")
    return emoji_table(
        json.loads(base["en/data.json"]),
        json.loads(base["meta/groups.json"]),
        json.loads(keywords["dist/emoji-en-US.json"]),
    )


def _names(table: Mapping[str, Emoji], archives: Mapping[Package, Path]) -> Iterator[tuple[str, str]]:
    yield from ((emoji.label, hexcode) for hexcode, emoji in table.items())
    files = packages.read(archives[EMOJIBASE], "meta/unicode-names.json", "en/shortcodes/")
    yield from ((name, hexcode) for hexcode, name in json.loads(files["meta/unicode-names.json"]).items())
    for source in _SHORTCODES:
        for hexcode, names in json.loads(files[f"en/shortcodes/{source}.json"]).items():
            yield from ((name, hexcode) for name in ([names] if isinstance(names, str) else names))
