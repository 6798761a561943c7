"""The notation of prompt weights, and which tokens a weight belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vqdiff
from vqdiff.checkpoints import read_model
from vqdiff.foundation.errors import InputError
from vqdiff.text import TextEncoder, literal, parse_weights
from vqdiff.text.emoji_names import spell_out, spelled
from vqdiff.text.weights import LARGEST

FOLDER = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"
CLIP = Path(__file__).parents[1] / "golden" / "diffusers" / "pipeline"

NOTATION = st.text(st.sampled_from("ab ():\\.123e-🍎"), max_size=30)
WORDS = st.text(st.characters(exclude_characters="()\\", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)
WEIGHTS = st.floats(0.01, LARGEST)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(FOLDER, max_tokens=12)


@pytest.mark.parametrize(
    ("prompt", "text", "weighted"),
    [
        ("(red:1.4) apple", "red apple", {"red": 1.4}),
        ("a (red:.5) and ( green : 2. ) apple", "a red and  green  apple", {"red": 0.5, "green": 2.0}),
        ("((red:1.5) apple:2)", "red apple", {"red": 3.0, "apple": 2.0}),
        ("(flag (old): Denmark:2)", "flag (old): Denmark", {"flag (old): Denmark": 2.0}),
        (":( :) (red:2)", ":( :) red", {"red": 2.0}),
        (r"\\(red:2)", r"\red", {"red": 2.0}),
        ("(red:10)", "red", {"red": 10.0}),
    ],
)
def test_weights_are_read(prompt: str, text: str, weighted: dict[str, float]) -> None:
    parsed = parse_weights(prompt)
    assert parsed.text == text
    for word, weight in weighted.items():
        start = text.index(word)
        assert set(parsed.weights[start : start + len(word)]) == {weight}
    if "((" not in prompt:
        assert sum(weight != 1 for weight in parsed.weights) == sum(
            len(word) + 2 * (word == "green") for word in weighted
        )


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        *((text, text) for text in ("flag (old)", "flag: Denmark", "(:3)", "( :3)", "(red:x)", "(red:1,4)", "red:2)")),
        *((text, text) for text in ("(red:2", "(flag: nan)", "¯\\_(ツ)_/¯", "C:\\dir", "", ")(", "(red)", "((red))")),
        (r"\(red:1.4\) apple", "(red:1.4) apple"),
        (r"(red\:2\)", r"(red\:2)"),
        ("(red:1.0) apple", "red apple"),
        ("((red:2):0.5)", "red"),
    ],
)
def test_other_parentheses_are_text(prompt: str, text: str) -> None:
    assert parse_weights(prompt).text == text
    assert parse_weights(prompt).plain


@pytest.mark.parametrize("weight", ["nan", "-1", "0", "inf", "-inf", "10.1", "1e3", "1e999", "-0.0"])
def test_a_weight_out_of_range_is_reported(weight: str) -> None:
    with pytest.raises(InputError, match=rf"^the weight in \(red:{weight}\) must be above 0 and at most 10: change it"):
        parse_weights(f"a (red:{weight}) apple")


def test_a_product_out_of_range_is_reported() -> None:
    with pytest.raises(InputError, match=r"the weight in \(red apple:5\) must be above 0 and at most 10"):
        parse_weights("((red:4) apple:5)")


@settings(deadline=None)
@given(NOTATION)
def test_a_caption_made_literal_is_itself(caption: str) -> None:
    parsed = parse_weights(literal(caption))
    assert (parsed.text, parsed.plain) == (caption, True)


@settings(deadline=None)
@given(NOTATION)
def test_every_prompt_is_read_or_reported(prompt: str) -> None:
    try:
        parsed = parse_weights(prompt)
    except InputError:
        return
    assert len(parsed.weights) == len(parsed.text)
    assert all(0 < weight <= LARGEST for weight in parsed.weights)
    if "(" not in prompt:
        assert parsed.plain


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WEIGHTS), max_size=4))
def test_several_weights(parts: list[tuple[str, float]]) -> None:
    parsed = parse_weights(" ".join(f"({literal(text)}:{weight!r})" for text, weight in parts))
    assert parsed.text == " ".join(text for text, _ in parts)
    wanted = [one for text, weight in parts for one in (*[weight] * len(text), 1.0)][:-1]
    assert list(parsed.weights) == wanted


@settings(deadline=None)
@given(st.text(st.sampled_from(["a", " ", "1", "(", "🍎", "🍏", "👍", "🏽", "\ufe0f", "é"]), max_size=8))
def test_characters_of_spelled_text_know_where_they_are_from(text: str) -> None:
    pairs = spelled(text)
    assert "".join(char for char, _ in pairs) == spell_out(text)
    assert all(char == text[place] for char, place in pairs if place is not None and text[place].isascii())


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a (red:2) apple", [1, 1, 2, 1, 1]),
        ("a (red:2) (apple:0.5)", [1, 1, 2, 0.5, 1]),
        ("a( red:2) apple", [1, 1, 2, 1, 1]),
        ("a red (xylograph:2)", [1, 1, 1, 2, 2, 2, 2, 2, 1]),
        ("(🍎:2)🍏", [1, 2, 2, 1, 1, 1, 1]),  # red apple, green apple
        ("(r:2)ed", [1, 2, 1]),
    ],
)
def test_tokens_have_the_weights_of_their_characters(encoder: TextEncoder, prompt: str, wanted: list[float]) -> None:
    parsed = parse_weights(prompt)
    assert len(encoder.tokenizer.encode(spell_out(parsed.text)).ids) == len(wanted)
    found = encoder.token_weights(parsed.text, parsed.weights)
    assert found.tolist() == wanted + [1.0] * (12 - len(wanted))


def test_tokens_of_clip_have_the_weights_of_their_characters() -> None:
    clip = read_model(CLIP, {}).text_encoder
    assert clip is not None
    parsed = parse_weights(" the (bear &amp; co:2) in the (pool:0.5)")
    found, ids = clip.token_weights(parsed.text, parsed.weights), clip.ids(parsed.text)
    for weight, words in ((2.0, " bear & co"), (0.5, " pool")):
        within = [piece for piece, one in zip(ids, found.tolist(), strict=True) if one == weight]
        assert within == [piece for piece in clip.ids(words)[1:-1] if piece and piece != clip.ids("")[1]]
    long = parse_weights("(" + "bear " * 200 + ":2)")
    found = clip.token_weights(long.text, long.weights)
    assert torch.equal(found[[0, -1]], torch.ones(2))
    assert (found[1:-1] == 2).all()
