"""Views of emoji drawings: what is made of what, what may be done to which, and their captions."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

import vqdiff.data
from vqdiff.recipes.emoji.build import Contents, assemble, check_views
from vqdiff.recipes.emoji.captions import split
from vqdiff.recipes.emoji.colours import GROUNDS, TARGETS, MainColour, main_colour, recolour, to_oklch, to_rgb
from vqdiff.recipes.emoji.drawings import Drawing, can_mirror, can_recolour, clear_colour, painted
from vqdiff.recipes.emoji.render import SIZE, blank_png, draw_png
from vqdiff.recipes.emoji.views import KINDS, Part, View, counts, plan
from vqdiff.recipes.emoji.words import is_countable, plural, with_article
from vqdiff.text.emoji_names import names

FEW = {"recoloured": 30, "mirrored": 30, "moved": 30, "ground": 30, "scene": 40}
RED = MainColour((0.6, 0.22, 27.0), 0.9)


def svg(body: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256" viewBox="0 0 16 16">{body}</svg>'.encode()


def drawing(name: str = "apple", main: MainColour | None = RED, body: str = "", **columns) -> Drawing:
    record = {"name": name, "style": "flat", "icon": name, "group": "food-drink", "subgroup": "", "tones": "",
              "role": name, "split": "train", "captions": [f"{name}, flat style"], "keywords": ["fruit"]}  # fmt: skip
    body = body or '<path id="a" fill="#d92020" d="M1 4h6v8H1z"/><use href="#a"/>'
    return Drawing(record | columns, svg(body), main)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def rows_of(folder: Path) -> list[dict]:
    return [
        row | {"split": path.name.split("-")[0]}
        for path in sorted((folder / "data").glob("*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]


@pytest.fixture(scope="session")
def built(archives, tmp_path_factory) -> Path:
    """The small set with icons and views."""
    output = tmp_path_factory.mktemp("views") / "set"
    assemble(archives, output, contents=Contents(faces=0.0, views=FEW), workers=1)
    return output


# Nothing held out is in any view

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from([f"R{number}" for number in range(60)]),
            "gender": st.sampled_from(["", "man", "woman"]),
            "tone": st.integers(0, 5),
            "style": st.sampled_from(["noto", "flat", "twemoji"]),
            "group": st.sampled_from(["food-drink", "people-body", "smileys-emotion", "flags"]),
        }
    ),
    min_size=20,
    max_size=80,
    unique_by=lambda row: (row["role"], row["gender"], row["tone"], row["style"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_no_view_has_a_held_out_drawing_in_it(rows):
    drawings = []
    for row in rows:
        tones = str(row["tone"]) if row["tone"] else ""
        base = f"{row['role']}-{row['gender']}"
        where = split(role=row["role"], gender=row["gender"], base=base, tones=tones, tone=row["tone"],
                      style=row["style"], compositional=True)  # fmt: skip
        name = f"thing{row['role'][1:].translate(str.maketrans('0123456789', 'abcdefghij'))}"
        columns = row | {"tones": tones, "split": where, "kind": "drawing", "made_of": []}
        drawings.append(drawing(name, icon=f"{base}-{tones}", **columns))
    train = [one for one in drawings if one.record["split"] == "train"]
    held_out = [one for one in drawings if one.record["split"] != "train"]
    views = list(plan(train, [one.record for one in held_out], FEW))
    keys, names = {one.key for one in held_out}, {one.record["name"] for one in held_out}
    records = [view.record(number) for number, view in enumerate(views)]
    for view, record in zip(views, records, strict=True):
        assert record["split"] == "train"
        assert set(record["made_of"]) == {part.drawing.key for part in view.parts}
        assert not keys & set(record["made_of"])
        for part in view.parts:
            assert not part.colour or painted(part.drawing, part.colour) not in names
    check_views([*(one.record for one in drawings), *records])
    if held_out:
        with pytest.raises(AssertionError):
            next(plan([*train, held_out[0]], [], FEW))
        with pytest.raises(AssertionError, match="held-out"):
            check_views([*(one.record for one in drawings), *records, records[0] | {"made_of": [held_out[0].key]}])


def sets() -> list[Path | None]:
    """The small set, and a whole one where it has been built as the configurations name it."""
    whole = Path(__file__).parents[2] / "data" / "emoji"
    return [None, *([whole] if whole.exists() else [])]


@pytest.mark.parametrize("folder", sets())
def test_no_row_of_a_built_set_has_a_held_out_drawing_in_it(folder, built):
    rows = rows_of(folder or built)
    drawings = {f"{row['style']}/{row['icon']}": row for row in rows if row["kind"] == "drawing"}
    held_out = [row for row in rows if row["split"] != "train"]
    assert held_out
    assert all(row["kind"] == "drawing" for row in held_out)
    for row in drawings.values():  # by concept, by role × gender × tone, by emoji × style: from the row's own columns
        names = ("role", "gender", "base", "tones", "tone", "style", "compositional")
        assert split(**{name: row[name] for name in names}) == row["split"]
    derived = [row for row in rows if row["made_of"]]
    assert {row["kind"] for row in derived} == set(KINDS)
    for row in derived:
        assert {drawings[part]["split"] for part in row["made_of"]} == {"train"}
    hidden = {hashlib.sha256(row["image"]["bytes"]).digest() for row in held_out}
    shown = Counter(hashlib.sha256(row["image"]["bytes"]).digest() for row in rows if row["split"] == "train")
    assert not hidden & set(shown)
    assert max(shown.values()) == 1
    concepts = {row["role"] for row in held_out if row["split"] == "test_concept"}
    assert not concepts & {role for row in rows if row["split"] == "train" for role in row["role"].split("+")}


# The built set


def test_drawings_and_splits_are_those_of_a_set_without_views(built, archives, tmp_path):
    assemble(archives, tmp_path / "alone", workers=1)
    plain = {f"{row['style']}/{row['icon']}": row for row in rows_of(tmp_path / "alone")}
    both = {f"{row['style']}/{row['icon']}": row for row in rows_of(built) if row["kind"] == "drawing"}
    assert plain.keys() == both.keys()
    for key, row in plain.items():
        assert both[key]["split"] == row["split"]
        assert both[key]["image"] == row["image"]
        other = {name: both[key][name] for name in row}
        assert other | {"captions": row["captions"]} == row
        further = other["captions"][len(row["captions"]) :]
        assert other["captions"] == [*row["captions"], *further]
        assert bool(further) == (row["split"] == "train")  # what is requested from models stays


def test_larger_pictures_are_the_same_rows_drawn_again(built, archives, tmp_path):
    assemble(archives, tmp_path / "large", contents=Contents(faces=0.0, views=FEW), size=256, workers=2)
    pairs = list(zip(rows_of(built), rows_of(tmp_path / "large"), strict=True))
    assert {small["kind"] for small, _ in pairs} == {"drawing", "icon", *FEW}
    assert "256 × 256" in (tmp_path / "large" / "README.md").read_text("utf-8")
    for small, large in pairs:
        assert {**large, "image": None} == {**small, "image": None}
        picture = Image.open(io.BytesIO(large["image"]["bytes"]))
        assert picture.size == (256, 256)
        halved = np.asarray(picture.reduce(2)).astype(int)
        assert abs(halved - pixels(small["image"]["bytes"])).mean() < 2


def test_every_kind_weighs_the_same_in_all(built):
    weights = Counter()
    for row in rows_of(built):
        if row["split"] == "train":
            weights[row["kind"]] += row["weight"]
    assert set(weights) == {"drawing", "icon", *KINDS}
    assert list(weights.values()) == pytest.approx([1] * len(weights))


def test_a_share_of_derived_rows_is_set_by_emphasis(built):
    from vqdiff.data import emphasised

    train = vqdiff.data.load(built, "train", 32)
    chances = emphasised(train, {"kind": {"icon": 0.0, **dict.fromkeys(KINDS, 0.2)}})
    share = chances[np.isin(train.columns["kind"], list(KINDS))].sum()
    assert share == pytest.approx(0.5)  # five kinds of 0.2 against drawings of 1


def test_an_interrupted_composition_goes_on(archives, built, tmp_path):
    def interrupted(items, description, total):
        for number, item in enumerate(items):
            if description == "Composing views" and number == 100:
                raise KeyboardInterrupt
            yield item

    contents = Contents(faces=0.0, views=FEW)
    with pytest.raises(KeyboardInterrupt):
        assemble(archives, tmp_path / "set", contents=contents, workers=1, track=interrupted)
    waiting = {path: path.stat().st_mtime_ns for path in (tmp_path / ".set.drawings").glob("*.png")}
    assert len(waiting) > 50
    kept = []

    def watched(items, description, total):
        yield from items
        if description == "Composing views":
            kept.extend(path for path, time in waiting.items() if path.stat().st_mtime_ns == time)

    assemble(archives, tmp_path / "set", contents=contents, workers=2, track=watched)
    assert len(kept) == len(waiting)
    for path in (built / "data").iterdir():
        assert (tmp_path / "set" / "data" / path.name).read_bytes() == path.read_bytes()


def test_the_card_names_every_kind_and_style(built):
    card = (built / "README.md").read_text("utf-8")
    records = {record.get("style"): record for record in json.loads((built / "LICENSES.json").read_text("utf-8"))}
    rows = rows_of(built)
    for kind, count in Counter(row["kind"] for row in rows).items():
        assert f"| {kind} | {count:,} |" in card
    for style in {row["style"] for row in rows}:
        assert f"| {style} | " in card
        assert records[style]["license"] in ("MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0")
        assert records[style]["attribution"]


def test_fewer_views_are_the_first_of_more():
    drawings = [drawing(name, main=None) for name in ("apple", "pear", "dog", "house", "boat")]
    few, many = (list(plan(drawings, [], {"scene": number})) for number in (10, 30))
    assert [view.artwork for view in few] == [view.artwork for view in many[:10]]
    assert sum(counts(10_000).values()) == 10_000


# Pictures


def test_parts_are_where_their_captions_put_them():
    left = Part(drawing(body='<path fill="#f00" d="M0 0h16v16H0z"/>'), 0.25, 0.5, 0.4)
    right = Part(drawing(body='<path fill="#00f" d="M0 0h16v16H0z"/>'), 0.75, 0.5, 0.4)
    picture = pixels(draw_png(View("scene", (left, right), ("",), "", "yellow").artwork))
    assert picture[SIZE // 2, SIZE // 4].tolist() == [255, 0, 0]
    assert picture[SIZE // 2, 3 * SIZE // 4].tolist() == [0, 0, 255]
    assert picture[2, 2].tolist() == pytest.approx([249, 216, 74], abs=1)


def test_mirrored_drawings_are_mirror_images():
    one = drawing(body='<path fill="#f00" d="M1 2h6v3H1z"/>')
    plain, mirrored = (
        pixels(draw_png(View("mirrored", (Part(one, mirror=flip),), ("",), "").artwork)) for flip in (False, True)
    )
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=2)


def test_copies_in_one_scene_keep_their_own_colours():
    """Gradients are found by id; those of two copies must not be taken for one another."""
    body = (
        '<defs><linearGradient id="SVGa"><stop stop-color="#e02020"/></linearGradient></defs>'
        '<path fill="url(#SVGa)" d="M0 0h16v16H0z"/>'
    )
    one = drawing(body=body)
    parts = (Part(one, 0.25, 0.5, 0.4, colour="blue"), Part(one, 0.75, 0.5, 0.4, colour="green"))
    picture = pixels(draw_png(View("scene", parts, ("",), "").artwork))
    first, second = picture[SIZE // 2, SIZE // 4], picture[SIZE // 2, 3 * SIZE // 4]
    assert first.argmax() == 2
    assert second.argmax() == 1


@pytest.mark.parametrize("word", TARGETS)
def test_recoloured_drawings_have_the_named_colour(word):
    red = svg(
        '<path fill="#d92020" d="M1 1h14v14H1z"/><path fill="#8f1414" d="M4 4h3v3H4z"/>'
        '<path fill="#fff" d="M9 9h2v2H9z"/>'
    )
    main = main_colour(draw_png(red))
    assert main is not None
    assert main.word == "red"
    picture = draw_png(recolour(red, main, word))
    new = main_colour(picture)
    assert (new.word if new else word) == word
    assert pixels(picture)[82, 82].tolist() == [255, 255, 255]  # white stays white
    assert pixels(picture)[42, 42].sum() < pixels(picture)[20, 100].sum()  # a shade stays darker


def test_other_hues_stay():
    red = svg('<path fill="#d92020" d="M1 1h14v14H1z"/><path fill="#20a020" d="M6 1h2v2H6z"/><use href="#d92020"/>')
    main = main_colour(draw_png(red))
    assert main is not None
    turned = recolour(red, main, "blue").decode()
    assert "#20a020" in turned
    assert 'href="#d92020"' in turned  # a name, not a colour
    assert 'fill="#d92020"' not in turned


def test_nothing_coloured_has_no_main_colour():
    assert main_colour(blank_png()) is None
    assert main_colour(draw_png(svg('<path fill="#888" d="M1 1h14v14H1z"/>'))) is None


@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)))
@settings(deadline=None)
def test_oklch_there_and_back(rgb):
    lightness, chroma, hue = to_oklch(np.array(rgb) / 255)
    assert np.abs(np.array(to_rgb((lightness, chroma, hue))) - rgb).max() <= 6  # chroma may shrink a little at the edge


# What may be done to which


@pytest.mark.parametrize(
    ("name", "columns", "may"),
    [
        ("red apple", {}, True),
        ("automobile", {"group": "travel-places"}, True),
        ("flag of Japan", {"group": "flags"}, False),
        ("red heart", {"group": "smileys-emotion"}, False),
        ("woman farmer", {"group": "people-body", "tones": "3"}, False),
        ("tangerine", {}, False),
        ("rainbow", {"group": "travel-places"}, False),
        ("grapes", {}, False),  # "a blue grapes"
        ("apple", {"style": "gradient"}, False),
    ],
)
def test_what_may_be_recoloured(name, columns, may):
    assert can_recolour(drawing(name, **columns)) == may


def test_only_what_has_one_main_colour_is_recoloured():
    assert not can_recolour(drawing(main=MainColour(RED.colour, 0.4)))
    assert not can_recolour(drawing(main=None))
    assert clear_colour(drawing("ball")) == "red"
    assert clear_colour(drawing("red ball")) == ""


@pytest.mark.parametrize(
    ("name", "may"),
    [("dog", True), ("man farmer", True), ("backhand index pointing left", False), ("twelve o'clock", False),
     ("alarm clock", False), ("input latin letters", False), ("person walking facing right", False),
     ("open book", False), ("keycap 3", False), ("school bus", False)],
)  # fmt: skip
def test_what_may_be_mirrored(name, may):
    assert can_mirror(drawing(name, group="objects")) == may


def test_what_faces_right_elsewhere_is_not_mirrored():
    """The mirror image of a person walking is the emoji "person walking facing right", which may be held out."""
    facing = {name.partition(" facing right")[0] for name in names().values() if " facing right" in name}
    assert len(facing) > 10
    people = [drawing(name, main=None, group="people-body") for name in facing]
    people += [drawing("kiss of man and man", main=None, group="people-body", tones="5-1")]
    assert not drawing("kiss of man and man", group="people-body", tones="5-5").has_twin
    assert all(person.has_twin for person in people)
    views = list(plan([*people, *(drawing(name, main=None) for name in ("dog", "cat"))], [], FEW))
    assert any(part.mirror for view in views for part in view.parts)
    for part in (part for view in views for part in view.parts):
        assert not (part.mirror and part.drawing.has_twin)


def test_sizes_are_not_named_twice():
    drawings = [drawing(name, main=None) for name in ("small airplane", "big ball", "dog", "cat", "house")]
    texts = [text for view in plan(drawings, [], {"scene": 200}) for text in view.captions]
    assert any(text.startswith("a big dog and a small") for text in texts)
    assert not [text for text in texts if "big small" in text or "small big" in text or "small small" in text]


def test_flags_are_not_mirrored():
    assert not can_mirror(drawing("Japan", group="flags"))


# Captions


def test_captions_of_scenes_name_what_is_there():
    names = ("apple", "pear", "dog", "house", "boat")
    drawings = [drawing(name, main=None) for name in names]
    views = list(plan(drawings, [], {"scene": 200}))
    assert len(views) == 200
    for view in views:
        order = sorted(view.parts, key=lambda part: part.x)
        names = [part.drawing.record["name"] for part in order]
        for text in view.captions:
            if " to the left of " in text and "bigger" not in text:
                assert text.index(names[0]) < text.index(names[1])
            if " right of " in text and "to the right" not in text:
                assert text.index(names[1]) < text.index(names[0])
            if view.ground:
                assert view.ground in text or "," in text
        count = Counter(names)
        if len(count) == 1:
            assert ("two", "three", "four")[count.total() - 2] in view.captions[0]


def test_grounds_are_named_and_differ_from_what_is_on_them():
    for view in plan([drawing()], [], {"ground": 3}):
        assert view.ground in GROUNDS
        assert "red" not in view.ground
        assert any(f"{view.ground} background" in text or f"on {view.ground}" in text for text in view.captions)


def test_words_do_not_change_pictures(monkeypatch):
    """Captions may be worded otherwise without drawing anything again."""
    drawings = [drawing(name, main=None) for name in ("apple", "pear", "dog", "house", "boat")]
    before = [view.artwork for view in plan(drawings, [], FEW)]
    from vqdiff.recipes.emoji import views

    monkeypatch.setattr(views._Chance, "some", lambda self, texts, count: tuple(texts))
    assert [view.artwork for view in plan(drawings, [], FEW)] == before


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("red apple", "a red apple", "red apples"),
        ("orange", "an orange", "oranges"),
        ("unicorn", "a unicorn", "unicorns"),
        ("ewe", "a ewe", "ewes"),
        ("slice of pizza", "a slice of pizza", "slices of pizza"),
        ("person walking", "a person walking", "people walking"),
        ("cherry", "a cherry", "cherries"),
        ("wolf", "a wolf", "wolves"),
        ("bus", "a bus", "buses"),
        ("grapes", "grapes", None),
        ("bread", "bread", None),
        ("flag of Japan", "flag of Japan", None),
        ("twelve o'clock", "twelve o'clock", None),
        ("x-ray", "an x-ray", "x-rays"),
    ],
)
def test_articles_and_plurals(name, one, many):
    assert with_article(name) == one
    assert is_countable(name) == (many is not None)
    if many:
        assert plural(name) == many
