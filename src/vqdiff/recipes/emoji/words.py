"""English noun phrases: with an article, in the plural."""

from __future__ import annotations

import re

_HEAD = re.compile(
    r"^(.*?)((?: (?:with|of|in|on|at|without|behind|from|under|over|and|but) "
    r"| (?!(?:ring|wing|king|string)\b)[a-z]+ing(?: |$)).*)?$"
)
_SINGULAR_S = re.compile(r".*(ss|us|is|ous|as|news|tennis|lens|chess|iris|pancreas|means|series|hippopotamus)$")
_MASS = frozenset([
    "rice", "bread", "corn", "honey", "salt", "butter", "tea", "sake", "fog", "fire", "water", "ginger", "broccoli",
    "garlic", "bacon", "popcorn", "sushi", "curry", "spaghetti", "money", "luggage", "wood", "coral", "snow",
    "milk", "food", "lightning", "rain", "wind", "dango", "oden", "oil", "smoke", "litter", "mate", "sand",
    "confetti", "dna", "tv", "dark", "light", "flour", "beer", "coffee", "wine", "chocolate", "cheese", "meat",
    "steam", "grass", "ice", "hay", "clay", "rubble", "clothing", "music", "baggage", "celery", "okra", "asparagus",
    "kimchi", "tennis", "hockey", "badminton", "lacrosse", "voltage", "construction", "yarn", "thread", "soap",
    "hair", "bald", "dizzy", "done", "locked", "unlocked", "away", "left", "right", "up", "down", "way", "selfie",
    "zzz", "arts", "skis", "maracas"
])  # fmt: skip
# Words in -ing that are nouns.
_THINGS = frozenset([
    "ring", "wing", "king", "string", "earring", "painting", "building", "drawing", "clothing", "dumpling",
    "seedling", "duckling", "ceiling", "swing", "spring", "sling", "pudding", "evening", "morning", "wedding"
])  # fmt: skip
_NO_ARTICLE = re.compile(
    r"^(the |a |an |flag|keycap|japanese \"|\d|people |men |women |mount fuji|jupiter|saturn|earth|planet|clapping"
    r"|raising|folding|rolling|mx |mrs|santa|tokyo|map of|[a-z]{1,2}$|on!|end|back |soon|top )|(ing|ed) (hands|face)s$"
)
_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "deer": "deer", "bison": "bison",
    "tooth": "teeth", "foot": "feet", "ox": "oxen", "man": "men", "woman": "women", "person": "people",
    "child": "children", "leaf": "leaves", "wolf": "wolves", "knife": "knives", "loaf": "loaves", "bus": "buses",
    "cactus": "cactuses", "octopus": "octopuses", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    "moose": "moose", "squid": "squid", "shrimp": "shrimp", "fireman": "firemen", "snowman": "snowmen",
    "blowfish": "blowfish", "jellyfish": "jellyfish", "swordfish": "swordfish", "scissors": "scissors",
}  # fmt: skip
_SOUNDS_LIKE_Y = re.compile(r"^(uni(?!n)|eu|ewe|one\b|use|ufo|ukulele|utensil|u-)")


def _parts(name: str) -> tuple[str, str, str]:
    """``dog face with hat`` → "dog ", "face", " with hat"."""
    match = _HEAD.match(name)
    assert match is not None  # it matches everything
    before, _, head = match[1].rpartition(" ")
    return f"{before} " if before else "", head, match[2] or ""


def is_countable(name: str) -> bool:
    """Whether ``name`` is a countable thing."""
    head = _parts(name)[1].lower()
    if _NO_ARTICLE.search(name) or head in _MASS or not re.fullmatch("[a-z'-]{2,}", head):
        return False
    if head.endswith(("o'clock", "-thirty")) or (head.endswith("ing") and head not in _THINGS):
        return False
    return not head.endswith("s") or bool(_SINGULAR_S.fullmatch(head))


def with_article(name: str) -> str:
    """``red apple`` → ``a red apple``; uncountable things stay unchanged."""
    if not is_countable(name):
        return name
    vowel = (name[0].lower() in "aeiou" and not _SOUNDS_LIKE_Y.match(name.lower())) or name.startswith(
        ("hour", "x-ray")
    )
    return f"{'an' if vowel else 'a'} {name}"


def plural(name: str) -> str:
    """``cat face`` → ``cat faces``, ``slice of bread`` → ``slices of bread``."""
    before, head, rest = _parts(name)
    if head in _IRREGULAR:
        many = _IRREGULAR[head]
    elif re.search("[^aeiou]y$", head):
        many = f"{head[:-1]}ies"
    else:
        many = head + ("es" if re.search("(s|x|z|ch|sh)$", head) else "s")
    return before + many + rest
