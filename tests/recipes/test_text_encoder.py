"""Trimming a text encoder: the words that stay mean the same, the others are spelt."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import vqdiff
from vqdiff.recipes.emoji.text_encoder import trim
from vqdiff.text import TextEncoder

WHOLE = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"


def test_kept_words_mean_the_same(tmp_path: Path) -> None:
    trim(WHOLE, tmp_path / "small", ["a red apple", "flag of japan"], common=300)
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (WHOLE, tmp_path / "small")]
    assert sizes[1] < 1000 < sizes[0]
    whole, small = TextEncoder(WHOLE), TextEncoder(tmp_path / "small")
    prompts = ["a red apple", "Flag of Japan!", "red flag"]
    torch.testing.assert_close(small.encode(prompts), whole.encode(prompts))
    pieces, fewer = (one.tokenizer.encode("zebra", add_special_tokens=False).tokens for one in (small, whole))
    assert len(pieces) > len(fewer)
    assert "".join(pieces).replace("##", "") == "zebra"
    assert "word pieces kept" in (tmp_path / "small" / "README.md").read_text()
