"""The card of the finished folder: its columns, counts, licences and how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vqdiff.recipes.emoji.faces import FACE_SETS
from vqdiff.recipes.emoji.icons import ICON_SETS
from vqdiff.recipes.emoji.packages import EMOJIBASE, EMOJILIB, LICENSE_URLS, STYLES, Style

COLUMNS = {
    "image": "the picture, on white",
    "caption": "the canonical caption",
    "captions": "more ways to say it: three to eight, more where several emoji look the same in this style",
    "kind": "`drawing` for those of emoji; `icon`, `face`; what is derived from drawings: `recoloured`, `mirrored`, "
    "`moved`, `ground`, `scene`",
    "made_of": "the drawings in a derived picture, as style/icon",
    "weight": "how often to draw the row in training: each kind weighs 1 in all, a role √(its rows) within its kind",
    "style": "the drawing style, see below",
    "icon": "the drawing's name in its package, or a number",
    "hexcode": "the Unicode sequence, without variation selectors",
    "base": "the sequence without skin tones",
    "name": "what is drawn, without skin tone and style",
    "keywords": "up to 16 more words about it",
    "group": "Unicode's group",
    "subgroup": "Unicode's subgroup",
    "tone": "0 yellow or none, 1 light, 2 medium-light, 3 medium, 4 medium-dark, 5 dark, −1 two tones",
    "tones": "the skin tone of each person, joined by `-`",
    "gender": "`man`, `woman`, `person`, or nothing where it does not vary",
    "role": "the sequence without skin tone and gender: the same for all farmers",
    "has_tones": "whether the emoji comes in skin tones",
    "variant": "the number of the drawing where a style has several of one emoji",
    "compositional": "whether the role is drawn for two genders or more",
    "same_as": "other sequences that this style draws exactly so",
    "source": "the npm package",
    "version": "its version",
    "license": "the licence of the drawing",
}

_SPLIT_RULES = {
    "train": "everything else",
    "test_comp": "8 % of the role × gender × skin tone cells, in all styles: each factor is known, the combination new",
    "test_style": "4 % of the emoji × style cells: emoji and style are known, the pair is new",
    "test_concept": "3 % of the roles, in all styles: what is drawn is new",
}


_KINDS = {
    "drawing": "drawings of emoji",
    "icon": "coloured icons, but for trade marks",
    "face": "avatars with chosen attributes",
    "recoloured": "drawings whose main colour is another, which the caption names",
    "mirrored": "mirror images, where left and right, clocks and writing don't matter",
    "moved": "drawings shifted, scaled, turned and mirrored a little",
    "ground": "drawings on a coloured ground",
    "scene": "two to four things in one picture: side by side, one above the other, big and small, several alike",
}


def styles_of(table: Sequence[Mapping[str, Any]]) -> list[Style]:
    """The styles of all sources that occur in the table."""
    there = {record["style"] for record in table}
    known = (*STYLES, *(icons.style for icons in ICON_SETS), *(faces.style for faces in FACE_SETS))
    return [style for style in known if style.name in there]


def licenses(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record for each style, and one for each source of names."""
    counts = Counter(record["style"] for record in table)
    art = [
        {
            "style": style.name,
            "pictures": counts[style.name],
            "package": style.package.name,
            "version": style.package.version,
            "integrity": f"sha512-{style.package.integrity}",
            "license": style.license,
            "license_url": LICENSE_URLS[style.license],
            "attribution": style.attribution,
            "url": style.url,
            "note": style.note,
        }
        for style in styles_of(table)
    ]
    text = [
        {
            "package": package.name,
            "version": package.version,
            "integrity": f"sha512-{package.integrity}",
            "license": "MIT",
            "license_url": LICENSE_URLS["MIT"],
            "attribution": author,
            "note": "names and keywords, no pictures",
        }
        for package, author in ((EMOJIBASE, "Miles Johnson"), (EMOJILIB, "Mu-An Chiou"))
    ]
    return art + text


def _of_kinds(by_kind: Mapping[str, int]) -> list[str]:
    return [
        "| kind | pictures | what |",
        "|---|---|---|",
        *(f"| {kind} | {by_kind[kind]:,} | {what} |" for kind, what in _KINDS.items() if by_kind[kind]),
        "",
        "Icons, faces and derived pictures are of the train split. Nothing of a held-out drawing is in any of them, and"
        " icons of held-out concepts are left out.",
    ]


def readme(table: Sequence[Mapping[str, Any]], splits: Sequence[str], size: int) -> str:
    """The card of images of ``size`` pixels, in the form that the Hugging Face Hub reads."""
    by_split = Counter(record["split"] for record in table)
    by_style = Counter(record["style"] for record in table)
    by_kind = Counter(record.get("kind", "drawing") for record in table)
    captions = sum(len(record["captions"]) for record in table)
    styles = styles_of(table)
    alone = set(by_kind) == {"drawing"}
    lines = [
        "---",
        "license: other",
        "license_name: mit-apache-2.0-cc-by-4.0-cc0",
        "license_link: LICENSES.json",
        "language: en",
        "task_categories: [text-to-image]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {split}, path: data/{split}-*.parquet}}" for split in splits),
        "---",
        "",
        f"# Emoji{'' if alone else ', icons and faces'} in {len(styles)} styles, with captions",
        "",
        f"{len(table):,} pictures of {size} × {size} pixels with {captions:,} captions, drawn from openly licensed"
        f" emoji{'' if alone else ', icon and avatar'} sets by `vqdiff data emoji`. The drawings were made by people;"
        f" the captions of emoji are Unicode's names and the keywords of {EMOJIBASE.name} {EMOJIBASE.version} and"
        f" {EMOJILIB.name} {EMOJILIB.version}, put into a few fixed forms; those of icons are their names.",
        "",
        "```python",
        "import datasets, vqdiff.data",
        "",
        'datasets.load_dataset("FOLDER", split="train")  # as a Hugging Face data set',
        'vqdiff.data.load("FOLDER", "train", image_size=64)  # as arrays, for training',
        "```",
        "",
        "## Splits",
        "",
        "| split | pictures | what |",
        "|---|---|---|",
        *(f"| {split} | {by_split[split]:,} | {_SPLIT_RULES[split]} |" for split in splits),
        "",
        *([] if alone else _of_kinds(by_kind)),
        "Which row goes where depends on hashes of names only, so the splits survive a rebuild.",
        "`gradient` and `3d` are often one drawing in two shadings; leave one out to be strict about `test_style`.",
        "",
        "## Styles and licences",
        "",
        "| style | pictures | package | licence of the drawings | by |",
        "|---|---|---|---|---|",
        *(
            f"| {style.name} | {by_style[style.name]:,} | {style.package.name} {style.package.version}"
            f" | [{style.license}]({LICENSE_URLS[style.license]}) | [{style.attribution}]({style.url}) |"
            for style in styles
        ),
        "",
        *(f"- {style.name}: {style.note}" for style in styles if style.note),
        "",
        "`LICENSES.json` has this as records. CC-BY-4.0 asks you to name the authors where you show the pictures."
        " Changes made here: drawn on white, with a margin; derived pictures as said above.",
        "",
        "## Columns",
        "",
        "| column | what |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in COLUMNS.items() if name == "image" or name in table[0]),
        "",
    ]
    return "\n".join(lines)
