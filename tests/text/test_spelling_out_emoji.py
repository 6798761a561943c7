"""Emoji in prompts, read as the names that models learn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqdiff.text.emoji_names import names, spell_out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("🍎", "red apple"),
        ("a 🍎 on a table", "a red apple on a table"),
        ("🐱🍕", "cat face, pizza"),
        ("🍎 🍌", "red apple, banana"),
        ("(🍕)", "(pizza)"),
        ("🍎!", "red apple!"),
        ("cat🐱dog", "cat cat face dog"),
        ("👍🏿", "thumbs up with dark skin tone"),
        ("👩🏽\u200d🌾", "woman farmer with medium skin tone"),
        ("🧑🏻\u200d🤝\u200d🧑🏿", "people holding hands with light and dark skin tones"),
        ("👩🏿\u200d❤️\u200d💋\u200d👨🏿", "kiss of woman and man with dark skin tone"),
        ("🫱🏻\u200d🫲🏿", "handshake with light and dark skin tones"),
        ("👨\u200d👩\u200d👦", "family of man, woman and boy"),
        ("😶\u200d🌫️", "face in clouds"),
        ("🇯🇵", "flag of Japan"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "flag of England"),
        ("1️⃣", "keycap 1"),
        ("❤️", "red heart"),
        ("❤", "red heart"),
        ("☕, noto style", "hot beverage, noto style"),
    ],
)
def test_names_stand_where_emoji_stood(text, said):
    assert spell_out(text) == said


@pytest.mark.parametrize(
    "text", ["", "a red apple", "1 cat #2", "© 2020 tm™", "❤\ufe0e", "é", "תפוח", "苹果", "🏽", "\u200d", "½ “a”"]
)
def test_what_is_no_emoji_stays(text):
    assert spell_out(text) == text


@given(st.text(st.characters(max_codepoint=0x2000)))
def test_texts_without_emoji_stay_as_they_are(text):
    if "\ufe0f" not in text and "\u20e3" not in text:
        assert spell_out(text) == text


def test_every_emoji_is_read_as_its_name():
    assert len(names()) > 1_900
    for emoji, name in names().items():
        shown = emoji if emoji[0] >= "\u2190" or "\u20e3" in emoji else emoji[0] + "\ufe0f" + emoji[1:]
        if "\u20e3" in emoji:
            shown = emoji[0] + "\ufe0f" + emoji[1:]
        assert spell_out(shown) == name
