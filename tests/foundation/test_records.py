"""The text `parameters`: what galleries expect, and back again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqdiff.foundation.records import parameters, parse_parameters

RECORD = {
    "prompts": ["a red apple"],
    "negative": "green",
    "seed": 0,
    "steps": 16,
    "sampler": "purity",
    "guidance": 2.0,
    "model": "emoji",
    "model_hash": "0123456789ab",
    "version": "0.1.0",
}
TEXT = (
    "a red apple\nNegative prompt: green\nSteps: 16, Sampler: purity, CFG scale: 2, Seed: 0, Size: 128x128, "
    "Model: emoji, Model hash: 0123456789ab, Version: vqdiff 0.1.0"
)


def test_the_text_that_galleries_show() -> None:
    assert parameters(RECORD, (128, 128)) == TEXT
    without = {key: value for key, value in RECORD.items() if key != "negative"}
    assert parameters(without, (128, 128)) == TEXT.replace("Negative prompt: green\n", "")


def test_it_is_read_again() -> None:
    assert parse_parameters(TEXT) == RECORD | {"size": "128x128", "version": "vqdiff 0.1.0"}


@pytest.mark.parametrize(
    ("prompts", "first"),
    [
        ([207], "207"),
        ([None], None),
        (["a cat", "a dog"], "a cat\na dog"),
        ([{"first": "a cat", "second": "a dog", "weight": 0.5}], "a cat"),
    ],
)
def test_prompts_of_all_kinds(prompts: list[Any], first: str | None) -> None:
    read = parse_parameters(parameters(RECORD | {"prompts": prompts}, (1, 1)))
    assert read.get("prompts", [None]) == [first]


def test_a_text_of_another_program() -> None:
    text = (
        "masterpiece, (best quality:1.2),\n<lora:x:1>\nNegative prompt: bad, worse\nand worst\n"
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, "
        'Model: v1-5, Lora hashes: "x: 12ab, y: 3", Version: v1.9.4'
    )
    assert parse_parameters(text) == {
        "prompts": ["masterpiece, (best quality:1.2),\n<lora:x:1>"],
        "negative": "bad, worse\nand worst",
        "steps": 20,
        "sampler": "DPM++ 2M",
        "guidance": 7.5,
        "seed": 965400086,
        "size": "512x768",
        "model": "v1-5",
        "model_hash": "6ce0161689",
        "version": "v1.9.4",
    }


@pytest.mark.parametrize("text", ["", "a cat", "a cat, red: blue", "Steps: many, Seed: x"])
def test_a_text_without_settings(text: str) -> None:
    assert parse_parameters(text).get("prompts", []) == [text] * (text not in ("", "Steps: many, Seed: x"))
    assert not {"steps", "seed"} & parse_parameters(text).keys()


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool)


@given(prompt=WORDS, negative=WORDS, model=WORDS, seed=st.integers(0, 2**64), guidance=st.integers(-100, 100))
def test_any_text_survives(prompt: str, negative: str, model: str, seed: int, guidance: int) -> None:
    record = RECORD | {"negative": negative, "model": model, "seed": seed, "guidance": guidance / 8}
    if prompt.startswith("Negative prompt:"):
        return
    read = parse_parameters(parameters(record | {"prompts": [prompt]}, (1, 1)))
    assert read == record | {"prompts": [prompt], "size": "1x1", "version": "vqdiff 0.1.0"}
