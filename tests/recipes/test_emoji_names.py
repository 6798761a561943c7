"""Names, captions and splits of the emoji set."""

from __future__ import annotations

from collections import Counter

import pytest
from pyarrow import parquet

from vqdiff.recipes.emoji.captions import captions, fraction, split
from vqdiff.recipes.emoji.entries import EmojiNames
from vqdiff.recipes.emoji.names import NameIndex, match_file_names, slug
from vqdiff.recipes.emoji.unicode import emoji_table, normalise, phrase, spoken_names
from vqdiff.text.emoji_names import names


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("red apple", "red apple"),
        ("flag: Côte d’Ivoire", "flag of Côte d'Ivoire"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("kiss: woman, man", "kiss of woman and man"),
        ("family: man, woman, girl, boy", "family of man, woman, girl and boy"),
        ("man walking: facing right", "man walking facing right"),
        ("keycap: 10", "keycap 10"),
    ],
)
def test_phrase(label, said):
    assert phrase(label) == said


def test_caption_forms():
    assert captions("waving hand", ["bye", "hello", "wave", "hi", "later"], (5,), "flat", "waving-hand-dark")[:3] == [
        "waving hand with dark skin tone, flat style",
        "flat style emoji of waving hand with dark skin tone",
        "waving hand with dark skin tone",
    ]
    last = captions("waving hand", ["bye", "hello", "wave", "hi", "later"], (5,), "flat", "waving-hand-dark")[-1]
    assert last == "bye, hello, wave, hi, dark skin tone, flat style"
    assert captions("kiss", [], (1, 5), "noto", "kiss")[2] == "kiss with light and dark skin tones"
    assert captions("kiss", [], (5, 5), "noto", "kiss")[2] == "kiss with dark skin tone"
    assert captions("tree", ["wood"], (), "noto", "tree")[3:] == ["tree (wood), noto style", "wood, noto style"]


def test_captions_and_splits_match_a_recorded_build(sample):
    """Recompute every unmerged row of the sample from its own columns."""
    table = parquet.read_table(sample / "data")
    rows = table.drop_columns(["image"]).to_pylist()
    assert len(rows) > 150
    checked = 0
    for row in rows:
        tones = tuple(int(tone) for tone in row["tones"].split("-") if tone)
        if len(row["keywords"]) < 16 and not row["same_as"]:  # else not all that the captions were made of is written
            assert captions(row["name"], row["keywords"], tones, row["style"], row["icon"]) == row["captions"]
            checked += 1
        assert row["caption"] == row["captions"][0]
    assert checked > 100


def test_splits_hold_out_cells_and_whole_roles(sample):
    seen = Counter()
    for path in sorted((sample / "data").glob("*.parquet")):
        for row in parquet.read_table(path).drop_columns(["image"]).to_pylist():
            names = ("role", "gender", "base", "tones", "tone", "style", "compositional")
            assert split(**{name: row[name] for name in names}) == path.name.split("-")[0]
            seen[path.name.split("-")[0]] += 1
    assert set(seen) == {"train", "test_comp", "test_style", "test_concept"}


def test_split_rates():
    """The hash is uniform: over many roles about 3 % are held out, over many cells 4 % of the rest."""
    common = {"gender": "", "tones": "", "tone": 0, "style": "noto", "compositional": False}
    counts = Counter(split(role=f"R{n}", base=f"B{n}", **common) for n in range(5_000))
    assert counts["test_concept"] / 5_000 == pytest.approx(0.03, abs=0.01)
    assert counts["test_style"] / 5_000 == pytest.approx(0.97 * 0.04, abs=0.012)
    assert fraction("a", "b") == fraction("a", "b") != fraction("a|b", "")


def test_yellow_drawings_are_never_held_out_as_combinations():
    cell = {"role": "R", "gender": "man", "base": "B", "style": "noto"}
    splits = {split(tones="", tone=0, compositional=True, **(cell | {"role": f"R{n}"})) for n in range(500)}
    assert "test_comp" not in splits


EMOJIBASE = [
    {"label": "farmer", "hexcode": "1F9D1-200D-1F33E", "group": 1, "subgroup": 25, "tags": ["farmer", "rancher"],
     "skins": [{"label": "farmer: dark skin tone", "hexcode": "1F9D1-1F3FF-200D-1F33E"}]},
    {"label": "man farmer", "hexcode": "1F468-200D-1F33E", "group": 1, "subgroup": 25},
    {"label": "person running", "hexcode": "1F3C3", "group": 1, "subgroup": 25},
    {"label": "woman running", "hexcode": "1F3C3-200D-2640-FE0F", "group": 1, "subgroup": 25},
    {"label": "kiss: woman, man", "hexcode": "1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "group": 1, "subgroup": 25},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]  # fmt: skip
GROUPS = {"groups": {"1": "people-body"}, "subgroups": {"25": "person-role"}}


def test_table_gives_gender_role_and_tones():
    table = emoji_table(EMOJIBASE, GROUPS, {"🧑‍🌾": ["farmer", "crops", "farm", ":)", "barn_owl"]})
    assert "1F1E6" not in table  # no group
    dark = table["1F9D1-1F3FF-200D-1F33E"]
    assert (dark.name, dark.base, dark.tones, dark.gender) == ("farmer", "1F9D1-200D-1F33E", (5,), "person")
    assert dark.keywords == ("rancher", "crops", "barn owl")  # neither what the name says nor a smiley
    assert dark.role == table["1F468-200D-1F33E"].role == "P-200D-1F33E"
    assert table["1F468-200D-1F33E"].gender == "man"
    assert (table["1F3C3-200D-2640"].role, table["1F3C3-200D-2640"].gender) == ("1F3C3", "woman")
    assert table["1F3C3"].gender == "person"
    kiss = table["1F469-200D-2764-200D-1F48B-200D-1F468"]
    assert (kiss.gender, kiss.role) == ("", kiss.base)


def test_prompts_are_read_with_the_names_of_the_table(archives):
    """The table in the package is the one that captions are made from."""
    spoken = spoken_names(EmojiNames.read(archives).table)
    assert len(spoken) > 20
    known = names()
    assert {emoji: known.get(emoji) for emoji in spoken} == spoken


def test_names_are_found_exactly_then_without_hyphens():
    table = emoji_table(EMOJIBASE, GROUPS, {})
    index = NameIndex(table)
    index.add([("man farmer", "1F468-200D-1F33E"), ("farmer", "1F9D1-200D-1F33E"), ("unknown", "1F999")])
    index.add([("farmer", "1F3C3"), ("man_running", "1F3C3")])
    assert index.find("farmer") == "1F9D1-200D-1F33E"  # the first source wins
    assert index.find("manfarmer") == index.find("man-farmer") == "1F468-200D-1F33E"
    assert index.find("man-running") == "1F3C3"
    assert index.find("unknown") is None
    assert index.find_numbered("farmer-2") == ("1F9D1-200D-1F33E", 2)
    assert index.find_numbered("nothing-2")[0] is None


def test_slug_and_normalise():
    assert slug("St. Barthélemy & Réunion’s") == "st-barthelemy-and-reunions"
    assert normalise("0023-fe0f-20e3") == "0023-20E3"


def test_swapped_skin_tones_are_put_right():
    names = match_file_names(["assets/1f44b-1f3fc.webp", "assets/1f44b-1f3fd.webp", "assets/a9-fe0f.webp"])
    assert [hexcode for hexcode, _ in names.values()] == ["1F44B-1F3FD", "1F44B-1F3FC", "00A9"]
