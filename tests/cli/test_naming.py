"""Names of many files: readable, safe on every system, none twice."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqdiff.cli.naming import check_pattern, names, quoted
from vqdiff.foundation.errors import InputError

PATTERN = "{index:03}-{prompt}-{seed}"


def test_the_default_pattern() -> None:
    images = [("a red apple", 0), ("红苹果", 1), ("a/b\\c:d?", 2), ("", 3)]
    assert names(PATTERN, images, ".png") == [
        "000-a-red-apple-0.png",
        "001-红苹果-1.png",
        "002-a-b-c-d--2.png",
        "003--3.png",
    ]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("CON", "_CON.png"),
        ("nul.txt", "_nul.txt.png"),
        ("lpt1", "_lpt1.png"),
        ("console", "console.png"),
        ("..", "image.png"),
        ("a cat. . ", "a-cat.png"),
        ("../../etc/passwd", "etc-passwd.png"),
        ("a\x00\nb\u202ec", "a-b-c.png"),
        ("é", "é.png"),
    ],
)
def test_names_that_systems_do_not_allow(prompt: str, name: str) -> None:
    assert names("{prompt}", [(prompt, 0)], ".png") == [name]


def test_no_name_twice() -> None:
    images = [("a Cat", 0), ("a cat", 0), ("a cat", 0)]
    assert names("{prompt}", images, ".png", taken=["A-CAT.png"]) == ["a-Cat-2.png", "a-cat-3.png", "a-cat-4.png"]


def test_many_equal_and_very_long_prompts_are_named_quickly() -> None:
    start = time.process_time()
    assert names("{prompt}", [("a cat", 0)] * 2000, ".png")[-1] == "a-cat-2000.png"
    assert len(names("{prompt}", [("x" * 20_000, 0)], ".png")[0]) == 120
    assert time.process_time() - start < 3


def test_a_long_prompt_is_cut_before_the_seed() -> None:
    (name,) = names(PATTERN, [("红苹果" * 50, 12345)], ".webp")
    assert len(name.encode()) <= 120
    assert re.fullmatch(r"000-[红苹果]{30,}-12345\.webp", name)


@given(
    st.lists(st.tuples(st.text(max_size=200), st.integers(0, 9)), max_size=6), st.sampled_from(["{prompt}", PATTERN])
)
def test_every_name_is_safe(images: list[tuple[str, int]], pattern: str) -> None:
    found = names(pattern, images, ".png")
    assert len({name.casefold() for name in found}) == len(images)
    for name in found:
        assert 5 <= len(name.encode()) <= 120
        assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
        assert not re.match(r"(con|prn|aux|nul|(com|lpt)\d)\.", name, re.IGNORECASE)
        assert name[0] not in ". "
        assert name[-5] not in ". "


@pytest.mark.parametrize("pattern", ["{label}", "{", "{0}", "{prompt.real}", "{seed:x y}", "{prompt!z}"])
def test_a_pattern_that_cannot_be_used(pattern: str) -> None:
    with pytest.raises(InputError, match="--name"):
        check_pattern(pattern)


def test_prompts_as_a_line_shows_them() -> None:
    assert quoted(["a cat"]) == "'a cat'"
    assert quoted([207, "it's"]) == '207, "it\'s"'
    assert quoted(list("abcdef")) == "'a', 'b', … (4 more)"
    assert len(quoted(["x" * 100])) == 42
    assert quoted([{"first": "a cat", "second": "a dog", "weight": 0.5}]) == "'a cat'"
