"""Views of the emoji drawings: recoloured, mirrored, moved, on a coloured ground, several in one scene.

A view is made only from rows of the train split, so that no view contains a held-out drawing. It is composed of the
drawings' SVG documents and rendered like them.
"""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vqdiff.recipes.emoji.captions import join_words
from vqdiff.recipes.emoji.colours import GROUNDS, TARGETS, MainColour, recolour
from vqdiff.recipes.emoji.drawings import HEAVY, THINGS, Drawing, bare, can_mirror, can_recolour, painted
from vqdiff.recipes.emoji.render import CANVAS, MARGIN
from vqdiff.recipes.emoji.words import is_countable, plural, with_article

KINDS = {"recoloured": 0.08, "mirrored": 0.1, "moved": 0.16, "ground": 0.22, "scene": 0.44}
"""The kinds of views, and the share of each."""


def counts(views: int) -> dict[str, int]:
    """The number of views of each kind out of ``views``, if there are enough drawings."""
    return {kind: round(share * views) for kind, share in KINDS.items()}


_CAST = (*THINGS, "smileys-emotion")
_IDS = re.compile(r'((?:\bid="|url\(#|href="#))')
_DOCUMENT = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>(.*)</svg>$', re.DOTALL)
_PLACES = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
}
_SIDES = {2: 0.45, 3: 0.31, 4: 0.44}
_DARK = ("black", "dark blue", "dark green", "brown")
_NUMBERS = ("", "", "two", "three", "four")


@dataclass(frozen=True)
class Part:
    """A drawing at its position in a view."""

    drawing: Drawing
    x: float = 0.5
    y: float = 0.5
    """Its centre, as fractions of the image's side."""
    side: float = 1.0
    """Its side, as a fraction of the image's side."""
    turn: float = 0.0
    """Degrees, clockwise."""
    mirror: bool = False
    colour: str = ""
    """Its new main colour."""

    def svg(self, number: int) -> str:
        """The part as an SVG element, in a view box of `CANVAS` units; ``number`` makes its ids unique."""
        box, body = _body(self.drawing.artwork, self.drawing.main, self.colour)
        body = _IDS.sub(rf"\g<1>p{number}", body)
        side, x, y = (CANVAS * value for value in (self.side, self.x, self.y))
        inner = (
            f'<svg x="{x - side / 2:.2f}" y="{y - side / 2:.2f}" width="{side:.2f}" height="{side:.2f}" '
            f'viewBox="{box}">{body}</svg>'
        )
        change = f"rotate({self.turn:.1f} {x:.2f} {y:.2f})" if self.turn else ""
        change += f" translate({2 * x:.2f} 0) scale(-1 1)" if self.mirror else ""
        return f'<g transform="{change.strip()}">{inner}</g>' if change else inner


@dataclass(frozen=True)
class View:
    """An image to compose, and its captions."""

    kind: str
    parts: tuple[Part, ...]
    captions: tuple[str, ...]
    name: str
    ground: str = ""

    @property
    def artwork(self) -> bytes:
        """Its SVG document."""
        paper = f'<rect width="{CANVAS}" height="{CANVAS}" fill="{GROUNDS[self.ground]}"/>' if self.ground else ""
        body = "".join(part.svg(number) for number, part in enumerate(self.parts))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{CANVAS}" height="{CANVAS}" viewBox="0 0 {CANVAS} {CANVAS}">{paper}{body}</svg>'
        ).encode()

    def record(self, number: int) -> dict[str, Any]:
        """The columns as they are written, except the image: those of its drawing, or of the first of several."""
        first = self.parts[0].drawing.record
        made_of = list(dict.fromkeys(part.drawing.key for part in self.parts))
        role = "+".join(sorted({part.drawing.record["role"] for part in self.parts}))
        alone = len(made_of) == 1
        return dict(first) | {
            "caption": self.captions[0],
            "captions": list(self.captions),
            "icon": f"{self.kind}-{number:06}",
            "name": self.name,
            "role": role if self.kind != "scene" else f"scene {role}",
            "group": first["group"] if alone else "scenes",
            "subgroup": first["subgroup"] if alone else "",
            "keywords": first["keywords"] if alone else [],
            "same_as": [],
            "kind": self.kind,
            "made_of": made_of,
            "split": "train",
        }


def plan(
    drawings: Sequence[Drawing], held_out: Sequence[Mapping[str, Any]], counts: Mapping[str, int]
) -> Iterator[View]:
    """Yield views of ``drawings``, kind by kind and at most ``counts`` of each; larger counts only add views.

    ``held_out`` are the records of the test splits: no drawing is recoloured such that it has the name of one of them.
    Raises AssertionError if a drawing is not in the train split.
    """
    assert all(drawing.record["split"] == "train" for drawing in drawings), "views are made of the train split alone"
    drawings = [drawing for drawing in drawings if drawing.record["group"] != "component"]
    light = [drawing for drawing in drawings if drawing.record["style"] != HEAVY]
    names = {record["name"] for record in held_out}
    makers: dict[str, Callable[..., Iterator[View]]] = {
        "recoloured": lambda chance: _recoloured(chance, drawings, names),
        "mirrored": lambda chance: _mirrored(chance, drawings),
        "moved": lambda chance: _moved(chance, light),
        "ground": lambda chance: _grounds(chance, light),
        "scene": lambda chance: _scenes(chance, light, names),
    }
    for kind, make in makers.items():
        views = make(_Chance(kind))
        yield from (view for _, view in zip(range(counts.get(kind, 0)), views, strict=False))


def _by_role(random: np.random.Generator, drawings: Sequence[Drawing], rounds: int) -> Iterator[Drawing]:
    """Yield each drawing once per round; the roles alternate, so that those with many drawings do not come first."""
    for _ in range(rounds):
        roles: defaultdict[str, list[Drawing]] = defaultdict(list)
        for index in random.permutation(len(drawings)):
            roles[drawings[index].record["role"]].append(drawings[index])
        while roles:
            for role in list(roles):
                yield roles[role].pop()
                if not roles[role]:
                    del roles[role]


def _flip(random: np.random.Generator, drawing: Drawing, share: float = 0.5) -> bool:
    """Decide at random whether to mirror the drawing, if that is valid."""
    return can_mirror(drawing) and random.random() < share and not drawing.has_twin


def _recoloured(chance: _Chance, drawings: Sequence[Drawing], taken: set[str]) -> Iterator[View]:
    fitting = [drawing for drawing in drawings if can_recolour(drawing)]
    used: defaultdict[str, set[str]] = defaultdict(set)
    for drawing in _by_role(chance.places, fitting, len(TARGETS)):
        if colour := _new_colour(chance.places, drawing, taken, used[drawing.key]):
            used[drawing.key].add(colour)
            name = painted(drawing, colour)
            part = Part(drawing, colour=colour, mirror=_flip(chance.places, drawing))
            yield View("recoloured", (part,), _captions(chance, with_article(name), name, drawing, [colour]), name)


def _mirrored(chance: _Chance, drawings: Sequence[Drawing]) -> Iterator[View]:
    for drawing in _by_role(chance.places, [drawing for drawing in drawings if can_mirror(drawing)], 1):
        if not drawing.has_twin:
            yield View("mirrored", (Part(drawing, mirror=True),), _own_captions(drawing), drawing.record["name"])


def _moved(chance: _Chance, drawings: Sequence[Drawing]) -> Iterator[View]:
    upright = ("symbols", "flags")
    for drawing in _by_role(chance.places, drawings, 2):
        turn = 0.0 if drawing.one_way or drawing.record["group"] in upright else chance.places.uniform(-14, 14)
        side = chance.places.uniform(0.62, 0.92)
        room = (1 - side) / 2 + 0.02
        x, y = (0.5 + chance.places.uniform(-room, room) for _ in range(2))
        part = Part(drawing, x, y, side, turn, mirror=_flip(chance.places, drawing))
        yield View("moved", (part,), _own_captions(drawing), drawing.record["name"])


def _grounds(chance: _Chance, drawings: Sequence[Drawing]) -> Iterator[View]:
    for drawing in _by_role(chance.places, [drawing for drawing in drawings if drawing.record["group"] != "flags"], 3):
        ground = _ground(chance.places, [drawing])
        side = chance.places.uniform(0.66, 0.95)
        part = Part(drawing, side=side, mirror=_flip(chance.places, drawing))
        what, style = with_article(drawing.name), drawing.record["style"]
        captions = (
            f"{what} on {_article(ground)} background, {style} style",
            f"{drawing.name}, {ground} background",
            f"{style} style {drawing.name} on {ground}",
            f"{_article(ground)} background with {what}",
        )
        yield View("ground", (part,), chance.some(captions, 3), drawing.record["name"], ground)


class _Chance:
    """The random generators: one for the images and a separate one for the words."""

    def __init__(self, kind: str) -> None:
        self.places, self.words = (np.random.default_rng([part, *kind.encode()]) for part in (0, 1))

    def some(self, texts: Sequence[str], count: int) -> tuple[str, ...]:
        """Choose ``count`` of the texts, in their order."""
        chosen = sorted(self.words.permutation(len(texts))[:count])
        return tuple(dict.fromkeys(str(texts[index]) for index in chosen))

    def shuffled(self, texts: Sequence[str]) -> list[str]:
        """Shuffle the texts."""
        return [str(texts[index]) for index in self.words.permutation(len(texts))]


@dataclass(frozen=True)
class _Actor:
    drawing: Drawing
    colour: str
    name: str

    @property
    def phrase(self) -> str:
        return with_article(self.name)


def _scenes(chance: _Chance, drawings: Sequence[Drawing], taken: set[str]) -> Iterator[View]:
    styles: defaultdict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        if drawing.record["group"] in _CAST and is_countable(drawing.name) and len(drawing.name.split()) <= 3:
            styles[drawing.record["style"]].append(drawing)
    casts = [cast for cast in styles.values() if len({drawing.record["role"] for drawing in cast}) > 3]
    if not casts:
        return
    chances = np.array([len(cast) for cast in casts], float)
    while True:
        cast = casts[chance.places.choice(len(casts), p=chances / chances.sum())]
        make = (_beside, _beside, _above, _big_and_small, _several, _three)[int(chance.places.integers(6))]
        count = {_several: 1, _three: 3}.get(make, 2)
        actors = _choose(chance.places, cast, count, taken)
        if len({actor.name for actor in actors}) < count:
            continue
        ground = _ground(chance.places, [actor.drawing for actor in actors]) if chance.places.random() < 0.2 else ""
        parts, texts = make(chance, actors)
        behind = f" on {_article(ground)} background" if ground else ""
        style = f", {actors[0].drawing.record['style']} style"
        captions = [f"{texts[0]}{behind}{style}", *(f"{text}{behind}" for text in texts[1:])]
        name = join_words([actor.name for actor in actors])
        yield View("scene", tuple(parts), (captions[0], *chance.some(captions[1:], 2)), name, ground)


def _choose(random: np.random.Generator, cast: Sequence[Drawing], count: int, taken: set[str]) -> list[_Actor]:
    actors = list[_Actor]()
    for index in random.choice(len(cast), count, replace=False):
        drawing = cast[index]
        colour = _new_colour(random, drawing, taken) if can_recolour(drawing) and random.random() < 0.4 else ""
        actors.append(_Actor(drawing, colour, painted(drawing, colour) if colour else drawing.name))
    return actors


def _parts(
    random: np.random.Generator, actors: Sequence[_Actor], places: Sequence[tuple[float, float, float]]
) -> list[Part]:
    """Place actors near the positions (x, y, side)."""
    parts = list[Part]()
    for actor, (x, y, side) in zip(actors, places, strict=True):
        side *= random.uniform(0.85, 1)
        x, y = (place + random.uniform(-0.02, 0.02) for place in (x, y))
        mirror = _flip(random, actor.drawing, 0.3)
        parts.append(Part(actor.drawing, x, y, side, random.uniform(-6, 6), mirror, actor.colour))
    return parts


def _beside(chance: _Chance, actors: Sequence[_Actor]) -> tuple[list[Part], list[str]]:
    parts = _parts(chance.places, actors, [(*place, _SIDES[2]) for place in _PLACES[2]])
    left, right = (actor.phrase for actor in actors)
    return parts, [
        f"{left} and {right}",
        f"{left} to the left of {right}",
        f"{right} right of {left}",
        f"{left} next to {right}",
        f"{right} and {left}",
    ]


def _above(chance: _Chance, actors: Sequence[_Actor]) -> tuple[list[Part], list[str]]:
    parts = _parts(chance.places, actors, [(y, x, _SIDES[2]) for x, y in _PLACES[2]])
    upper, lower = (actor.phrase for actor in actors)
    return parts, [f"{upper} above {lower}", f"{lower} below {upper}", f"{upper} and {lower}", f"{lower} under {upper}"]


def _big_and_small(chance: _Chance, actors: Sequence[_Actor]) -> tuple[list[Part], list[str]]:
    big, small = actors
    x = 0.64 if chance.places.random() < 0.5 else 0.36
    parts = _parts(chance.places, actors, [(x, 0.42, 0.66), (1 - x - (0.16 if x > 0.5 else -0.16), 0.8, 0.3)])
    side = "left" if x > 0.5 else "right"
    texts = [f"{small.phrase} to the {side} of a bigger {big.name}", f"{big.phrase} and {small.phrase}"]
    if not {"small", "big", "large"} & {*big.name.split(), *small.name.split()}:
        texts = [f"a big {big.name} and a small {small.name}", f"a small {small.name} and a big {big.name}", *texts]
    return parts, texts


def _several(chance: _Chance, actors: Sequence[_Actor]) -> tuple[list[Part], list[str]]:
    (actor,) = actors
    count = int(chance.places.integers(2, 5))
    places = [(*place, _SIDES[count]) for place in _PLACES[count]]
    if count == 3 and chance.places.random() < 0.6:
        places = [(0.5, 0.27, 0.44), (0.27, 0.73, 0.44), (0.73, 0.73, 0.44)]
    number, many = _NUMBERS[count], plural(actor.name)
    texts = [f"{number} {many}", f"{count} {many}", f"a picture of {number} {many}", f"{many}, {number} of them"]
    return _parts(chance.places, [actor] * count, places), texts


def _three(chance: _Chance, actors: Sequence[_Actor]) -> tuple[list[Part], list[str]]:
    places = [(*place, _SIDES[3]) for place in _PLACES[3]]
    if chance.places.random() < 0.6:
        places = [(0.5, 0.27, 0.44), (0.27, 0.73, 0.44), (0.73, 0.73, 0.44)]
    texts = [actor.phrase for actor in actors]
    words = [join_words(chance.shuffled(texts)) for _ in range(2)]
    names = ", ".join(actor.name for actor in actors)
    return _parts(chance.places, actors, places), [join_words(texts), *words, names]


def _new_colour(random: np.random.Generator, drawing: Drawing, taken: set[str], used: Collection[str] = ()) -> str:
    """Choose a colour that the drawing does not have, not in ``used``, and that does not give it a held-out name."""
    assert drawing.main is not None
    old, first = drawing.main.word, drawing.record["name"].partition(" ")[0]
    choice = [
        colour
        for colour, target in TARGETS.items()
        if colour not in (old, first, *used)
        and (target[1] == 0 or abs((target[2] - drawing.main.colour[2] + 180) % 360 - 180) > 25)
        and painted(drawing, colour) not in taken
    ]
    weights = np.array([0.35 if colour in ("brown", "grey", "black") else 1.0 for colour in choice])
    return choice[random.choice(len(choice), p=weights / weights.sum())] if choice else ""


def _ground(random: np.random.Generator, drawings: Sequence[Drawing]) -> str:
    """Choose a background on which every drawing is visible."""
    words = {drawing.main.word for drawing in drawings if drawing.main} - {""}
    dim = any(drawing.main is None or drawing.main.colour[0] < 0.45 for drawing in drawings)
    choice = [name for name in GROUNDS if name.rpartition(" ")[2] not in words and not (dim and name in _DARK)]
    return choice[int(random.integers(len(choice)))]


def _captions(chance: _Chance, what: str, name: str, drawing: Drawing, words: Sequence[str]) -> tuple[str, ...]:
    style = drawing.record["style"]
    keywords = [*words, bare(drawing.record["name"]), *drawing.record["keywords"][:2]]
    forms = (f"{what}, {style} style", what, f"{style} style emoji of {what}", f"{', '.join(keywords)}, {style} style",
             f"{style} style, {name}")  # fmt: skip
    return (f"{name}, {style} style", *chance.some(forms, 2))


def _own_captions(drawing: Drawing) -> tuple[str, ...]:
    return tuple(drawing.record["captions"])


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _body(artwork: bytes, main: MainColour | None, colour: str) -> tuple[str, str]:
    """View box and content of a drawing; raster artwork becomes an image element."""
    if not artwork.startswith(b"<svg"):
        width, height = Image.open(io.BytesIO(artwork)).size
        side = max(width, height) * (1 + 2 * MARGIN)
        data = base64.b64encode(artwork).decode()
        image = f'<image width="{width}" height="{height}" href="data:image/webp;base64,{data}"/>'
        return f"{(width - side) / 2} {(height - side) / 2} {side} {side}", image
    if colour:
        assert main is not None
        artwork = recolour(artwork, main, colour)
    match = _DOCUMENT.match(artwork.decode())
    assert match is not None  # it was made by svg_document
    return match[1], match[2]
