"""Map the file names of icon sets to Unicode sequences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from vqdiff.recipes.emoji.unicode import Emoji, normalise

_NUMBERED = re.compile(r"(.+)-([1-9])")
_FLAG_PREFIX = re.compile(r"^flag-for-(flag-)?")
_SWAPPED = {"1F3FC": "1F3FD", "1F3FD": "1F3FC"}


def slug(text: str) -> str:
    """Convert text to lower-case ASCII words joined by ``-``, as icon sets write names."""
    text = text.replace("&", "and").replace("’", "").replace("_", "-")
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_text.lower()).strip("-")


class NameIndex:
    """Finds the sequence for a name; if two sources have the same name, the one added first is used."""

    def __init__(self, table: Mapping[str, Emoji]) -> None:
        self._table = table
        self._exact: dict[str, str] = {}
        self._squeezed: dict[str, str] = {}  # without hyphens, for sets that write "alarmclock"

    def add(self, names: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a name and a hexcode; unknown sequences are skipped."""
        for name, hexcode in names:
            hexcode, name = normalise(hexcode), slug(name)
            if hexcode in self._table:
                self._exact.setdefault(name, hexcode)
                self._squeezed.setdefault(name.replace("-", ""), hexcode)

    def find(self, name: str) -> str | None:
        """The hexcode for a name; an exact match takes precedence over one that differs in hyphens."""
        return self._exact.get(name) or self._squeezed.get(name.replace("-", ""))

    def find_numbered(self, name: str) -> tuple[str | None, int]:
        """Also understand ``man-farmer-2``: the hexcode, and the number of the drawing (0 if there is none)."""
        name = _FLAG_PREFIX.sub("flag-", name)
        hexcode, match = self.find(name), _NUMBERED.fullmatch(name)
        return (self.find(match[1]), int(match[2])) if match and not hexcode else (hexcode, 0)


def match_iconify(
    icon_set: Mapping[str, Any], index: NameIndex, chars: Mapping[str, str]
) -> dict[str, tuple[str, int]]:
    """Hexcode and number of the drawing for each visible icon of an Iconify set, by icon name.

    ``chars`` is the set's own table of sequences, if it has one; otherwise names and aliases are looked up.
    """
    own = {name: normalise(hexcode) for hexcode, name in chars.items()}
    aliases: dict[str, list[str]] = {}
    for alias, target in icon_set.get("aliases", {}).items():
        if len(target) == 1:  # more than "parent": the drawing is rotated or mirrored
            aliases.setdefault(target["parent"], []).append(alias)
    found: dict[str, tuple[str, int]] = {}
    for icon in sorted(name for name, drawing in icon_set["icons"].items() if not drawing.get("hidden")):
        hexcode, number = (own.get(icon), 0) if own else index.find_numbered(icon)
        if not own and not hexcode:
            hexcode = next(filter(None, map(index.find, aliases.get(icon, ()))), None)
        if hexcode:
            found[icon] = (hexcode, number)
    return found


def match_file_names(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """The hexcode for each file that is named by its code points.

    The only such package (Fluent 3D) has medium-light and medium skin swapped; this is corrected here.
    """
    found: dict[str, tuple[str, int]] = {}
    for name in sorted(names):
        codes = normalise(name.rpartition("/")[2].partition(".")[0]).split("-")
        found[name] = ("-".join(_SWAPPED.get(code, code).zfill(4) for code in codes), 0)
    return found
