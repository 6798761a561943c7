"""docs/equations.md and the code: what the page names is there and explained, and what is public is on the page."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from vqdiff import diffusion

PAGE = Path(__file__).parents[1] / "docs" / "equations.md"
TEXT = PAGE.read_text()
NAMES = sorted(set(re.findall(r"`(vqdiff(?:\.\w+)+)`", TEXT)))
FORMULAS = re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$", TEXT, re.DOTALL)


def owner_and_object(name: str) -> tuple[Any, Any]:
    """What a dotted name stands for, and the module or class it is in."""
    owner, found = None, importlib.import_module("vqdiff")
    for length, part in enumerate(name.split(".")[1:], start=2):
        owner = found
        if not hasattr(found, part) and inspect.ismodule(found):
            importlib.import_module(".".join(name.split(".")[:length]))
        found = getattr(found, part)
    return owner, found


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_in_the_code_and_explained_there(name: str) -> None:
    owner, found = owner_and_object(name)
    explained = found.__doc__ or (inspect.isclass(owner) and owner.__doc__)
    assert explained
    assert not explained.startswith(f"{name.rpartition('.')[2]}(")  # what Python makes up for data classes


@pytest.mark.parametrize("name", diffusion.__all__)
def test_all_of_the_mathematics_is_on_the_page(name: str) -> None:
    assert f"vqdiff.diffusion.{name}" in NAMES


def test_every_linked_file_and_section_exists() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (PAGE.parent / target).is_file(), target


def test_every_formula_becomes_mathml() -> None:
    converter = pytest.importorskip("latex2mathml.converter", reason="needs the docs extra")
    assert len(FORMULAS) > 100
    for formula in map("".join, FORMULAS):
        assert "\\" not in converter.convert(formula), formula
