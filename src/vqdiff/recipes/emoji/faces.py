"""Faces: avatars of DiceBear, drawn with chosen attributes, so that their captions are exact."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from vqdiff.foundation.errors import InputError
from vqdiff.recipes.emoji.captions import join_words
from vqdiff.recipes.emoji.entries import Extra
from vqdiff.recipes.emoji.packages import CC0, CC_BY, Package, Style
from vqdiff.recipes.emoji.render import CANVAS, MARGIN

_SKINS = {"light": "f7d7c4", "medium-light": "e8b894", "medium": "c68642", "medium-dark": "8d5524", "dark": "4f2f1d"}
_HAIRS = {
    "black": "211b18", "brown": "6b4226", "blond": "e6c35c", "red": "b8452a", "grey": "a9a9ad", "orange": "ee8434",
    "pink": "f285b5", "blue": "3f77d1", "purple": "8654bd", "green": "45a35a",
}  # fmt: skip
_CLOTHES = {
    "red": "d63a3a", "orange": "f28c33", "yellow": "f4cf45", "green": "3f9e55", "blue": "3a70d0", "purple": "7d4dbb",
    "pink": "f07fb0", "black": "26262a", "white": "f2f2f2", "grey": "9a9aa0",
}  # fmt: skip

_WORDS = 30  # of the longest caption, with commas and hyphens: what fits the text encoder

Choice = Mapping[str, str]
"""Value of an option → its words in a caption, where ``*`` is the option's colour; "" is left out."""


@dataclass(frozen=True)
class FaceSet:
    """One collection of DiceBear: the options to choose, and their words."""

    style: Style
    count: int
    """Number of faces to draw."""
    has: Mapping[str, Choice] = field(default_factory=dict)
    """Options that follow "with"."""
    mood: Mapping[str, Choice] = field(default_factory=dict)
    """Options that precede the noun: "smiling"."""
    wears: Mapping[str, Choice] = field(default_factory=dict)
    """Options that follow "wearing"."""
    seldom: Mapping[str, float] = field(default_factory=dict)
    """Options that only this share of faces has."""
    colours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Colour option → its values; an option ``hair`` is coloured by ``hairColor``."""
    coloured_by: Mapping[str, str] = field(default_factory=dict)
    """Option → its colour option, if it has another name."""
    fixed: Mapping[str, Sequence[str] | int] = field(default_factory=dict)
    noun: str = "person"
    bare: tuple[str, ...] = ("bald",)
    """Values without hair, which have no hair colour."""


def _dicebear(name: str, integrity: str) -> Package:
    return Package(f"@dicebear/{name}", "9.4.3", integrity)


def _style(name: str, license: str, designer: str, url: str, integrity: str) -> Style:
    return Style(name, _dicebear(name, integrity), license, f"{designer}, DiceBear", url)


CORE = _dicebear("core", "9ITrQI57k3p5hKuU8HZJ1d0kPdrmTKEJDOdlKQ8CpaChbtmnD1R+dtWmNz5IesYThXM8F64pJ0ZvJ2rsY8Hciw==")

_TONE = {"skinColor": _SKINS}

FACE_SETS = (
    FaceSet(
        _style(
            "personas",
            CC_BY,
            "Draftbit",
            "https://personas.draftbit.com",
            "5ssYDAj0F5eOfoBq1fAVvzDMF9QGOKUaKEq/UGiNL7DMSOojazTC0cEHR7JOGcc/Fa53yfPf9v6932WXg/C0Ow==",
        ),
        4500,
        has={
            "hair": {
                "long": "long * hair", "sideShave": "* hair shaved on one side", "shortCombover": "short * hair",
                "curlyHighTop": "curly * hair", "bobCut": "a * bob cut", "curly": "curly * hair",
                "pigtails": "* pigtails", "curlyBun": "a curly * bun", "buzzcut": "a * buzz cut",
                "bobBangs": "a * bob with bangs", "bald": "a bald head", "balding": "balding * hair",
                "bunUndercut": "a * bun", "fade": "short * hair", "straightBun": "a * bun",
                "extraLong": "very long * hair", "shortComboverChops": "short * hair and sideburns",
                "mohawk": "a * mohawk", "cap": "a cap", "beanie": "a beanie",
            },
            "eyes": {"open": "", "sleep": "closed eyes", "wink": "a wink", "glasses": "glasses", "happy": "",
                     "sunglasses": "sunglasses"},
            "facialHair": {"beardMustache": "a beard and a moustache", "pyramid": "a moustache",
                           "walrus": "a walrus moustache", "goatee": "a goatee", "shadow": "stubble"},
        },
        mood={"mouth": {"smile": "smiling", "frown": "frowning", "surprise": "surprised", "bigSmile": "laughing",
                        "smirk": "smirking"}},
        wears={"body": {"squared": "a * shirt", "rounded": "a * shirt", "small": "a * shirt",
                        "checkered": "a * checkered shirt"}},
        seldom={"facialHair": 0.25},
        colours={**_TONE, "hairColor": _HAIRS, "clothingColor": _CLOTHES},
        coloured_by={"body": "clothingColor"},
        bare=("bald", "cap", "beanie"),
    ),
    FaceSet(
        _style(
            "big-smile",
            CC_BY,
            "Ashley Seo",
            "https://www.figma.com/community/file/881358461963645496",
            "cAKHvqdxfL+D+3b2z0/P0MJAwijax6CTfJghTHZvEIUh7SSn4r0h/BWCLpuOFi5SMAgebsWQ2NtCkt7z9v1REw==",
        ),
        3500,
        has={
            "hair": {
                "shortHair": "short * hair", "mohawk": "a * mohawk", "wavyBob": "a wavy * bob",
                "bowlCutHair": "a * bowl cut", "curlyBob": "a curly * bob", "straightHair": "straight * hair",
                "braids": "* braids", "shavedHead": "a shaved head", "bunHair": "a * bun", "froBun": "a curly * bun",
                "bangs": "* bangs", "halfShavedHead": "* hair shaved on one side",
                "curlyShortHair": "short curly * hair",
            },
            "accessories": {
                "catEars": "cat ears", "glasses": "glasses", "sailormoonCrown": "a tiara", "clownNose": "a clown nose",
                "sleepMask": "a sleep mask", "sunglasses": "sunglasses", "faceMask": "a face mask",
                "mustache": "a moustache",
            },
            "mouth": {"openedSmile": "an open smile", "unimpressed": "a straight mouth",
                      "gapSmile": "a gap-toothed smile", "openSad": "an open sad mouth",
                      "teethSmile": "a toothy smile", "awkwardSmile": "an awkward smile", "braces": "braces",
                      "kawaii": "a small smile"},
        },
        mood={"eyes": {"cheery": "cheerful", "normal": "", "confused": "confused", "starstruck": "starry-eyed",
                       "winking": "winking", "sleepy": "sleepy", "sad": "sad", "angry": "angry"}},
        seldom={"accessories": 0.5},
        colours={**_TONE, "hairColor": _HAIRS},
        noun="face",
        bare=("shavedHead",),
    ),
    FaceSet(
        _style(
            "micah",
            CC_BY,
            "Micah Lanier",
            "https://www.figma.com/community/file/829741575478342595",
            "+76eH3Scu8jfiSbhGjK3OBWeTK+qiuKxrlZFimevaIUzNe6UjqEeaiBUg9R7LPAx3CNIXJOLhuzkHPEkOSnXtg==",
        ),
        3500,
        has={
            "hair": {"fonze": "a * quiff", "mrT": "a * mohawk", "dougFunny": "a few * hairs", "mrClean": "a bald head",
                     "dannyPhantom": "messy * hair", "full": "full * hair",
                     "pixie": "a * pixie cut"},
            "glasses": {"round": "round * glasses", "square": "square * glasses"},
            "facialHair": {"beard": "a beard", "scruff": "stubble"},
            "earrings": {"hoop": "hoop earrings", "stud": "stud earrings"},
        },
        mood={"mouth": {"surprised": "surprised", "laughing": "laughing", "nervous": "nervous", "smile": "smiling",
                        "sad": "sad", "pucker": "", "frown": "frowning", "smirk": "smirking"}},
        wears={"shirt": {"open": "a * open shirt", "crew": "a * T-shirt", "collared": "a * collared shirt"}},
        seldom={"glasses": 0.4, "facialHair": 0.25, "earrings": 0.25},
        colours={"baseColor": _SKINS, "hairColor": _HAIRS, "shirtColor": _CLOTHES,
                 "glassesColor": {"black": "222226", "red": "c93a3a", "blue": "3a62c0"}},
        fixed={"earringColor": ["f4d150"], "facialHairColor": ["2a211c"]},
        bare=("mrClean",),
    ),
    FaceSet(
        _style(
            "open-peeps",
            CC0,
            "Pablo Stanley",
            "https://www.openpeeps.com",
            "jv2hZPQ25/r+aFm0bf7omEUMFUy1JoSMr2luGdTnSBmefaIFD9vjCOxIyBjvY9f5SBTqwVgqhED/lJyo+n2NKQ==",
        ),
        4000,
        has={
            "head": {
                "afro": "an afro", "bangs": "* hair with bangs", "bantuKnots": "Bantu knots", "bun": "a * bun",
                "buns": "two * buns", "cornrows": "cornrows", "dreads1": "* dreadlocks", "flatTop": "a * flat top",
                "grayShort": "short grey hair", "grayMedium": "grey hair", "grayBun": "a grey bun",
                "hatBeanie": "a beanie", "hatHip": "a hat", "hijab": "a hijab", "long": "long * hair",
                "longAfro": "a long afro", "longBangs": "long * hair with bangs", "longCurly": "long curly * hair",
                "medium1": "* hair", "mediumStraight": "straight * hair", "mohawk": "a * mohawk",
                "noHair1": "a bald head", "pomp": "a * pompadour", "shaved1": "a shaved head",
                "short1": "short * hair", "short3": "short * hair", "turban": "a turban", "twists": "* twists",
            },
            "accessories": {"eyepatch": "an eyepatch", "glasses": "glasses", "glasses3": "glasses",
                            "sunglasses": "sunglasses"},
            "facialHair": {"chin": "a chin beard", "full": "a beard", "full2": "a full beard", "goatee1": "a goatee",
                           "moustache1": "a moustache", "moustache4": "a moustache"},
            "mask": {"medicalMask": "a medical mask"},
        },
        mood={"face": {
            "angryWithFang": "angry", "awe": "amazed", "calm": "calm", "cheeky": "cheeky", "concerned": "concerned",
            "contempt": "scornful", "cute": "cute", "driven": "determined", "eyesClosed": "", "fear": "frightened",
            "lovingGrin1": "grinning", "old": "old", "rage": "furious", "serious": "serious", "smile": "smiling",
            "smileBig": "laughing", "solemn": "solemn", "suspicious": "suspicious", "tired": "tired",
            "veryAngry": "very angry",
        }},
        seldom={"accessories": 0.35, "facialHair": 0.2, "mask": 0.06},
        colours={**_TONE, "headContrastColor": _HAIRS, "clothingColor": _CLOTHES},
        coloured_by={"head": "headContrastColor"},
        bare=("afro", "bantuKnots", "cornrows", "grayShort", "grayMedium", "grayBun", "hatBeanie", "hatHip", "hijab",
              "longAfro", "noHair1", "shaved1", "turban"),
    ),
    FaceSet(
        _style(
            "toon-head",
            CC_BY,
            "Johan Melin",
            "https://www.figma.com/community/file/1589627891082866389",
            "NcXfUWk0pjMsh2xe4L8PLNQowdPsC5FCIJ2OO1CCebAaV40f3O6xsRcvgHtrore3V1433B6ENRxwPMgOkwWnDw==",
        ),
        3500,
        has={
            "hair": {"sideComed": "* hair combed to the side", "undercut": "a * undercut", "spiky": "spiky * hair",
                     "bun": "a * bun"},
            "rearHair": {"longStraight": "long hair at the back", "longWavy": "long wavy hair at the back",
                         "shoulderHigh": "shoulder-length hair", "neckHigh": "hair down to the neck"},
            "beard": {"moustacheTwirl": "a twirled moustache", "fullBeard": "a full beard", "chin": "a chin beard",
                      "chinMoustache": "a goatee", "longBeard": "a long beard"},
            "eyes": {"happy": "", "wide": "wide eyes", "bow": "closed eyes", "humble": "", "wink": "a wink"},
        },
        mood={"mouth": {"laugh": "laughing", "angry": "angry", "agape": "surprised", "smile": "smiling", "sad": "sad"}},
        wears={"clothes": {"turtleNeck": "a * turtleneck", "openJacket": "an open * jacket", "dress": "a * dress",
                           "shirt": "a * shirt", "tShirt": "a * T-shirt"}},
        seldom={"rearHair": 0.35, "beard": 0.25},
        colours={**_TONE, "hairColor": _HAIRS, "clothesColor": _CLOTHES},
        fixed={"eyebrows": ["neutral"]},
    ),
    FaceSet(
        _style(
            "miniavs",
            CC_BY,
            "Webpixels",
            "https://www.figma.com/community/file/923211396597067458",
            "iBAbswzDYXK6+xwedKgrDP4nCi8vYRm1WGiIBL7lY4BE5UGpCFYA2tOIyYxiwvNHObnBi1k4QGYeyDWYK5O6Yw==",
        ),
        2000,
        has={
            "hair": {"balndess": "balding * hair", "ponyTail": "a * ponytail", "long": "long * hair",
                     "curly": "curly * hair", "stylish": "stylish * hair", "elvis": "a * quiff",
                     "classic01": "short * hair", "classic02": "short * hair"},
            "glasses": {"normal": "glasses"},
            "mustache": {"pencilThinBeard": "a thin beard", "pencilThin": "a thin moustache",
                         "horshoe": "a horseshoe moustache", "freddy": "a moustache"},
        },
        mood={"mouth": {"default": "smiling"}},
        wears={"body": {"tShirt": "a * T-shirt", "golf": "a * polo shirt"}},
        seldom={"glasses": 0.3, "mustache": 0.25},
        colours={**_TONE, "hairColor": _HAIRS, "bodyColor": _CLOTHES},
        fixed={"blushesProbability": 0},
    ),
    FaceSet(
        _style(
            "dylan",
            CC_BY,
            "Natalia Spivak",
            "https://www.figma.com/community/file/1356575240759683500",
            "LXBa+ZVoBQJQ5hlNxWqzUSdAUTUhFbG+9HV0+ipnajDoAUx1S6qdSJWiiVEan0Mz7VwDHe1zbBVhLxO2E+C7ig==",
        ),
        2000,
        has={
            "hair": {"plain": "plain * hair", "wavy": "wavy * hair", "shortCurls": "short * curls",
                     "parting": "parted * hair", "spiky": "spiky * hair", "roundBob": "a round * bob",
                     "longCurls": "long * curls", "buns": "two * buns", "bangs": "* bangs", "fluffy": "fluffy * hair",
                     "flatTop": "a * flat top", "shaggy": "shaggy * hair"},
            "facialHair": {"default": "a beard"},
        },
        mood={"mood": {"happy": "happy", "angry": "angry", "neutral": "", "superHappy": "very happy", "sad": "sad",
                       "hopeful": "hopeful", "confused": "confused"}},
        seldom={"facialHair": 0.2},
        colours={**_TONE, "hairColor": _HAIRS},
        fixed={"backgroundColor": ["ffffff"]},
        noun="face",
    ),
    FaceSet(
        _style(
            "fun-emoji",
            CC_BY,
            "Davis Uche",
            "https://www.figma.com/community/file/968125295144990435",
            "7zO+bJzKNbFAE0FOwP4IvP2sVnemGxYYsHVWYSXj5ZiWibcsEDLSmCanZZgbfzsHaDvh7Y8mKK6dynbnCUGJDA==",
        ),
        1200,
        has={
            "eyes": {"sad": "sad eyes", "tearDrop": "a tear", "cute": "cute eyes", "wink": "a wink", "plain": "",
                     "glasses": "glasses", "closed": "closed eyes", "love": "heart eyes", "stars": "starry eyes",
                     "shades": "sunglasses", "crying": "crying eyes", "sleepClose": "sleeping eyes"},
            "mouth": {"plain": "a straight mouth", "lilSmile": "a little smile", "sad": "a sad mouth",
                      "wideSmile": "a wide smile", "shout": "a shouting mouth", "smileTeeth": "a toothy smile",
                      "smileLol": "a laughing mouth", "drip": "a drooling mouth", "tongueOut": "its tongue out",
                      "kissHeart": "a kiss and a heart", "faceMask": "a face mask"},
        },
        colours={"backgroundColor": _CLOTHES},
        noun="square face",
    ),
    FaceSet(
        _style(
            "adventurer",
            CC_BY,
            "Lisa Wischofsky",
            "https://www.figma.com/community/file/1184595184137881796",
            "LPzLiNBVSrzb2lBTwAP00+ew/VfqcImI/ULVFaL2LXEuY3QlAOLwvR4TpwX8AIqeo8JDQO4cVMHZsCm0c2uGdg==",
        ),
        2500,
        has={
            "hair": {f"{length}{number:02}": f"{length} * hair" for length, count in (("short", 19), ("long", 26))
                     for number in range(1, count + 1)},
            "glasses": {f"variant{number:02}": "glasses" for number in range(1, 6)},
            "features": {"mustache": "a moustache", "blush": "blushing cheeks", "birthmark": "a birthmark",
                         "freckles": "freckles"},
            "earrings": {f"variant{number:02}": "earrings" for number in range(1, 7)},
        },
        seldom={"glasses": 0.25, "features": 0.3, "earrings": 0.2},
        colours={**_TONE, "hairColor": _HAIRS},
    ),
)  # fmt: skip
FACE_PACKAGES = (CORE, *(faces.style.package for faces in FACE_SETS))


@dataclass(frozen=True)
class Face:
    """A face to draw, and its captions."""

    faces: FaceSet
    number: int
    options: Mapping[str, Sequence[str] | int]
    captions: tuple[str, ...]
    words: tuple[str, ...]


def choose(faces: FaceSet) -> Iterator[Face]:
    """Yield the faces of a collection, all different; the same for every call."""
    random, seen = np.random.default_rng(list(faces.style.name.encode())), set[str]()
    while len(seen) < faces.count:
        options: dict[str, list[str] | int] = {}
        colours = {option: _pick(random, choice) for option, choice in faces.colours.items()}
        for option, name in colours.items():
            options[option] = [faces.colours[option][name]]
        phrases: dict[str, list[str]] = {"has": [], "mood": [], "wears": []}
        for kind, words in phrases.items():
            for option, choice in getattr(faces, kind).items():
                shown = random.random() < faces.seldom.get(option, 1.0)
                value = _pick(random, choice)
                options[option], options[f"{option}Probability"] = [value], 100 if shown else 0
                if shown and choice[value]:
                    colour = colours.get(faces.coloured_by.get(option, f"{option}Color"), "")
                    words.append(re.sub(r"\ba (?=[aeiou])", "an ", choice[value].replace("*", colour)))
        key = json.dumps(options)
        if key not in seen:
            seen.add(key)
            skin = next((colours[option] for option in ("skinColor", "baseColor") if option in colours), "")
            ground = colours.get("backgroundColor", "")
            captions = _captions(random, faces, phrases, skin, ground)
            words = (*phrases["mood"], *phrases["has"], *phrases["wears"])
            yield Face(faces, len(seen), options | dict(faces.fixed) | {"seed": str(len(seen))}, captions, words)


def _captions(
    random: np.random.Generator, faces: FaceSet, phrases: Mapping[str, list[str]], skin: str, ground: str
) -> tuple[str, ...]:
    """A long caption, one of a few of the attributes, a short one, keywords; the order of attributes varies."""
    style, noun = f"{faces.style.name} style", faces.noun
    has = [phrases["has"][index] for index in random.permutation(len(phrases["has"]))]
    mood = " ".join(phrases["mood"])
    what = " ".join(filter(None, (mood, ground, noun)))
    what = f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
    plain = f"a {noun}"
    wears = f" wearing {phrases['wears'][0]}" if phrases["wears"] else ""
    tone = f" and {skin} skin" if skin else ""
    for count in (3, 2, 1):  # as many as fit the text encoder
        most = [*has[:count], *([f"{skin} skin"] if skin else [])]
        long = f"{what} with {join_words(most)}{wears}" if most else what + wears
        if len(re.findall(r"\w+|[,-]", f"{long}, {style}")) <= _WORDS:
            break
    some = f"{plain} with {has[0]}{tone}" if has else f"{what}{wears}"
    short = f"{what} with {has[-1]}" if has else what
    keys = [
        *has,
        *phrases["mood"],
        *phrases["wears"],
        *([f"{skin} skin"] if skin else []),
        *([ground] if ground else []),
    ]
    keys = [re.sub("^an? ", "", keys[index]) for index in random.permutation(len(keys))]
    forms = (f"{long}, {style}", some, f"{style} avatar: {short}", f"{', '.join([*keys[:4], noun])}, {style}", long)
    return tuple(dict.fromkeys(forms))


def _pick(random: np.random.Generator, choice: Mapping[str, str]) -> str:
    return sorted(choice)[int(random.integers(len(choice)))]


def read_faces(archives: Mapping[Package, Path], share: float = 1.0) -> Iterator[Extra]:
    """Yield the faces of all collections, or the first ``share`` of each.

    Raises InputError if Node.js is missing or fails.
    """
    chosen = [face for faces in FACE_SETS for face in islice(choose(faces), max(1, round(faces.count * share)))]
    for face, svg in zip(chosen, _draw(archives, chosen), strict=True):
        style = face.faces.style
        yield Extra(
            kind="face",
            style=style,
            icon=f"{style.name}-{face.number:05}",
            artwork=with_margin(svg),
            name=face.faces.noun,
            captions=list(face.captions),
            keywords=face.words,
            role=f"face {style.name}",
            group="faces",
            subgroup=style.name,
        )


def _draw(archives: Mapping[Package, Path], faces: Sequence[Face]) -> Iterator[str]:
    """The SVG documents of ``faces``, by DiceBear's own program."""
    node = shutil.which("node")
    if node is None:
        raise InputError("node is needed to draw the faces but is not on the PATH; install Node.js")
    with tempfile.TemporaryDirectory() as room:
        modules = Path(room, "node_modules", "@dicebear")
        modules.mkdir(parents=True)
        for package in FACE_PACKAGES:
            folder = modules / package.name.rpartition("/")[2]
            with tarfile.open(archives[package]) as tar:
                tar.extractall(room, filter="data")
            Path(room, "package").rename(folder)
        program = Path(__file__).with_name("faces.mjs")
        jobs = "".join(json.dumps({"style": face.faces.style.name, "options": face.options}) + "\n" for face in faces)
        result = subprocess.run([node, program, modules], input=jobs, capture_output=True, text=True, check=False)
        if result.returncode:
            raise InputError(f"node could not draw the faces: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
        yield from map(json.loads, result.stdout.splitlines())


def with_margin(svg: str) -> bytes:
    """Add the usual margin around the view box of an SVG document."""
    match = re.search(r'viewBox="([-\d.]+) ([-\d.]+) ([-\d.]+) ([-\d.]+)"', svg)
    assert match is not None  # all documents of DiceBear have one
    x, y, width, height = map(float, match.groups())
    side = max(width, height) * (1 + 2 * MARGIN)
    inner = re.sub(r"<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    inner = re.sub(r"<svg ", f'<svg x="{x}" y="{y}" width="{width}" height="{height}" ', inner, count=1)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{CANVAS}" height="{CANVAS}" '
        f'viewBox="{x - (side - width) / 2} {y - (side - height) / 2} {side} {side}">{inner}</svg>'
    ).encode()
