"""Drawings that views are made of, and which changes are valid for each: another colour, the mirror image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vqdiff.recipes.emoji.captions import TONE_NAMES
from vqdiff.recipes.emoji.colours import TARGETS, WORDS, MainColour
from vqdiff.recipes.emoji.words import is_countable

HEAVY = "gradient"  # takes ten times as long to draw, and "3d" has the same drawings
THINGS = ("animals-nature", "food-drink", "objects", "travel-places", "activities")
_PAINTED = 0.5  # share of the ink that must have the main colour for a drawing to be recoloured
_CLEAR = 0.75  # … for its colour to be named
_UNPAINTED = re.compile(
    r"\b(tangerine|carrot|rose|blood|medal|traffic|police|map|rainbow|fire|flag|sun|moon|globe|earth|card|chart|peach"
    r"|night|sunset|sunrise|cityscape|landscape|park|beach|tree|leaf|leaves|suit|milk|chocolate|banknote|dna|santa)\b"
)
# Names that mirroring would falsify: sides, clocks, writing, music, and a few other things that have a direction.
_ONE_WAY = re.compile(
    r"\b(left|right|leftwards?|rightwards?|clock|o'clock|thirty|watch|timer|stopwatch|hourglass|calendar|keycap|button"
    r"|input|letters?|abc|yen|dollar|euro|pound|banknote|hundred|ok|free|new|cool|up|soon|top|end|atm|sos|vs|zzz|mark"
    r"|question|sign|medal|1st|2nd|3rd|ball|die|dice|cards?|mahjong|chart|newspaper|books?|ledger|page|memo|scroll"
    r"|receipt|ticket|tickets|keyboard|typewriter|e-mail|music|musical|note|notes|score|piano|guitar|violin|trumpet"
    r"|saxophone|phone|pager|printer|fax|dvd|radio|television|sport|utility|ambulance|police|fire|bus|taxi|stop|stadium"
    r"|24|convenience|bank|hotel|hospital|school|love|post|office|flag|map|globe|japan|japanese|moon|sewing|facing"
    r"|pointing|quarter|waxing|waning|gibbous|crescent|abacus|coin|credit|label|placard|identification|shirt|computer"
    r"|laptop|battery|scale|thermometer|bandage|pause|play|text|speech|anger|bubble|balloon|point|no)\b",
    re.IGNORECASE,
)
_TWIN = re.compile(r"\b(walking|running|kneeling|wheelchair|white cane)\b")


@dataclass(frozen=True)
class Drawing:
    """A drawing that views are made of: a row of the set, its artwork and its main colour."""

    record: Mapping[str, Any]
    artwork: bytes = field(repr=False)
    main: MainColour | None = None

    @property
    def key(self) -> str:
        """Its identifier in the column ``made_of``."""
        return f"{self.record['style']}/{self.record['icon']}"

    @property
    def one_way(self) -> bool:
        """Whether its mirror image would be wrong: sides, clocks, writing."""
        return bool(_ONE_WAY.search(self.record["name"]))

    @property
    def has_twin(self) -> bool:
        """Whether its mirror image is another emoji, which may be held out: "facing right", or swapped tones."""
        return bool(_TWIN.search(self.record["name"])) or len(set(self.record["tones"].split("-"))) > 1

    @property
    def name(self) -> str:
        """Its name, including the skin tone."""
        tones = dict.fromkeys(TONE_NAMES[int(tone)] for tone in self.record["tones"].split("-") if tone)
        words = f" with {' and '.join(tones)} skin tone{'s' if len(tones) > 1 else ''}" if tones else ""
        return self.record["name"] + words


def can_recolour(drawing: Drawing) -> bool:
    """Whether the drawing has one main colour that may change: not skin, a flag, or a colour that its name implies."""
    record = drawing.record
    return (
        record["group"] in THINGS
        and not record["tones"]
        and drawing.main is not None
        and drawing.main.share >= _PAINTED
        and drawing.main.colour[1] > 0.07
        and drawing.artwork.startswith(b"<svg")
        and record["style"] != HEAVY  # its filters have colours of their own
        and not _UNPAINTED.search(record["name"])
        and is_countable(bare(record["name"]))
        and not WORDS & set(bare(record["name"]).split())
    )


def can_mirror(drawing: Drawing) -> bool:
    """Whether the mirror image shows the same thing: no sides, clocks or writing."""
    return drawing.record["group"] not in ("flags", "symbols") and not drawing.one_way


def painted(drawing: Drawing, colour: str) -> str:
    """``red apple`` → ``green apple``, ``car`` → ``green car``."""
    return f"{colour} {bare(drawing.record['name'])}"


def clear_colour(drawing: Drawing) -> str:
    """The name of a drawing's colour, if it has one that its own name does not contain; else empty."""
    if drawing.main is None or drawing.main.share < _CLEAR or not can_recolour(drawing):
        return ""
    if drawing.main.word in ("orange", "brown", "pink") or (
        drawing.main.word == "red" and drawing.main.colour[1] < 0.17
    ):
        return ""  # fur, wood and brass have other names
    return drawing.main.word if bare(drawing.record["name"]) == drawing.record["name"] else ""


def bare(name: str) -> str:
    """The name without a colour at its beginning."""
    first, _, rest = name.partition(" ")
    return rest if first in TARGETS and rest else name
