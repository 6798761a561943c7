"""Icon sets and avatars beside the emoji: which of them are taken, and what their captions say."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from pyarrow import parquet

from vqdiff.foundation.errors import InputError
from vqdiff.recipes.emoji.build import Contents, assemble, packages_for
from vqdiff.recipes.emoji.captions import concept_is_held_out
from vqdiff.recipes.emoji.entries import EmojiNames
from vqdiff.recipes.emoji.faces import FACE_PACKAGES, FACE_SETS, choose, read_faces, with_margin
from vqdiff.recipes.emoji.icons import ICON_SETS, HeldOutNames, read_icons
from vqdiff.recipes.emoji.packages import LICENSE_URLS, PACKAGES, Package
from vqdiff.recipes.emoji.render import draw_png


def test_every_source_is_pinned_licensed_and_credited():
    packages = packages_for(Contents())
    assert len({package.name for package in packages}) == len(packages)
    assert all(len(package.integrity) == 88 for package in packages)
    for source in (*ICON_SETS, *FACE_SETS):
        assert source.style.license in LICENSE_URLS
        assert source.style.attribution
        assert source.style.url.startswith("https://")
    names = [source.style.name for source in (*ICON_SETS, *FACE_SETS)]
    assert len(set(names)) == len(names)
    assert packages_for(Contents(icons=False, faces=0.0)) == PACKAGES


# Icons


@pytest.fixture(scope="module")
def icons(archives):
    return list(read_icons(archives, EmojiNames.read(archives)))


def test_icons_are_called_what_they_show(icons):
    named = {(icon.style.name, icon.icon): icon for icon in icons}
    assert named["icon park", "avocado-one"].name == "avocado"
    assert named["kameleon", "donut"].captions[:2] == ["donut, kameleon style", "donut"]
    assert "food drink" in named["kameleon", "donut"].captions[-1]
    assert named["round flag", "jp"].name == "flag of Japan"
    assert named["weather icon", "rainbow-fill"].name == "rainbow"
    assert named["plump", "book-1"].name == "book"


def test_one_size_and_one_version_of_each_icon(icons):
    found = {icon.icon for icon in icons}
    assert "lock-closed-48" in found
    assert not found & {"lock-closed-16", "donut-duo", "fish-flat", "snowman-duo", "jp-1x1", "rainbow", "lang-ja", "ar"}


def test_icons_of_held_out_concepts_and_trade_marks_are_left_out(icons):
    found = {icon.icon for icon in icons}
    assert not found & {"camera", "camera-24", "folder", "truck", "gb", "id-4x3"}  # held out
    assert not found & {"github", "android-logo", "google-logo"}
    emoji = [icon for icon in icons if not icon.role.startswith("icon ")]
    assert emoji
    assert not [icon for icon in emoji if concept_is_held_out(icon.role)]


@pytest.mark.parametrize(
    ("name", "held_out"),
    [("camera", True), ("camera display", True), ("cameras", True), ("folder open", True), ("soccer field", True),
     ("delivery truck", True), ("banana", False), ("cat", False), ("brickwork", False), ("microscope", False)],
)  # fmt: skip
def test_names_of_held_out_concepts(name, held_out, archives):
    assert (name in HeldOutNames(EmojiNames.read(archives))) == held_out


# Faces


def test_faces_differ_and_are_the_same_at_every_call():
    for one in FACE_SETS:
        some = [face for face, _ in zip(choose(one), range(50), strict=False)]
        assert len({str(sorted(face.options.items())) for face in some}) == 50
        assert [face.captions for face in some] == [
            face.captions for face, _ in zip(choose(one), range(50), strict=False)
        ]


@pytest.mark.parametrize("one", FACE_SETS, ids=lambda one: one.style.name)
def test_captions_of_faces_name_what_was_chosen(one):
    for face, _ in zip(choose(one), range(200), strict=False):
        long = face.captions[0]
        assert long.endswith(f"{one.style.name} style")
        assert "*" not in " ".join(face.captions)
        for kind in ("has", "mood", "wears"):
            for option, choice in getattr(one, kind).items():
                shown = face.options[f"{option}Probability"]
                words = choice[face.options[option][0]]
                said = " ".join(face.words)
                for word in words.split(" * ") if words and shown else ():
                    assert word.strip("a *") in said
                    assert kind == "has" or word.strip("a *") in long
                if option in ("glasses", "beard", "facialHair") and not shown:
                    assert not [word for word in face.words if word in choice.values()]
        if "skinColor" in one.colours:
            (skin,) = [name for name, value in one.colours["skinColor"].items() if [value] == face.options["skinColor"]]
            assert f"{skin} skin" in long
        if "hairColor" in one.colours and "hair" in one.has and "*" in one.has["hair"][face.options["hair"][0]]:
            (hair,) = [name for name, value in one.colours["hairColor"].items() if [value] == face.options["hairColor"]]
            assert hair in " ".join(face.words)


def test_long_captions_fit_the_text_encoder():
    """No more word pieces than a model of 32 places takes; nearly all words are one piece."""
    for one in FACE_SETS:
        for face, _ in zip(choose(one), range(200), strict=False):
            assert all(len(re.findall(r"\w+|[,-]", caption)) <= 30 for caption in face.captions)


CORE = """
export const createAvatar = (style, options) => ({
  toString: () => `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><metadata><a/></metadata>`
    + `<rect width="10" height="10" fill="#${(options.skinColor || options.baseColor || options.backgroundColor)[0]}"/>`
    + `<title>${style.name}</title></svg>`,
});
"""


@pytest.fixture
def avatars(tmp_path) -> dict[Package, Path]:
    """Packages in the shape of DiceBear's."""
    paths = {package: tmp_path / package.archive for package in FACE_PACKAGES}
    for package, path in paths.items():
        name = package.name.rpartition("/")[2]
        style = f"import {{ createAvatar }} from '@dicebear/core';\nexport const name = typeof createAvatar + '{name}';"
        files = {"package.json": '{"type": "module", "exports": "./lib/index.js"}',
                 "lib/index.js": CORE if name == "core" else style}  # fmt: skip
        with tarfile.open(path, "w:gz") as tar:
            for file, text in files.items():
                entry = tarfile.TarInfo(f"package/{file}")
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
    return paths


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_faces_are_drawn_by_their_own_program(avatars, archives, tmp_path):
    drawn = list(read_faces(avatars, 0.001))
    assert {face.style.name for face in drawn} == {one.style.name for one in FACE_SETS}
    for face in drawn:
        assert f"<title>function{face.style.name}</title>" in face.artwork.decode()
        assert b"metadata" not in face.artwork
    contents = Contents(icons=False, faces=0.001, views={})
    assemble(archives | avatars, tmp_path / "set", contents=contents, workers=1)
    (shard,) = (tmp_path / "set" / "data").glob("train-*.parquet")
    rows = [row for row in parquet.read_table(shard).to_pylist() if row["kind"] == "face"]
    assert 5 < len(rows) <= len(drawn)
    assert {row["group"] for row in rows} == {"faces"}


def test_node_is_required(avatars, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="install Node"):
        next(read_faces(avatars, 0.001))


def test_faces_get_a_margin():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><path d="M0 0h64v64H0z"/></svg>'
    from PIL import Image

    picture = Image.open(io.BytesIO(draw_png(with_margin(svg)))).convert("L")
    assert picture.getpixel((1, 1)) == 255
    assert picture.getpixel((6, 6)) == 0
