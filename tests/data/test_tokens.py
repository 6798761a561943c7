"""Tokens: those the tokenizer gives, with the columns of their pictures, and of no other tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from picture_sets import numbered, picture, with_metadata
from vqdiff.data import TokenSet, Views, load, tokenize
from vqdiff.data.tokens import fingerprint
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import to_pixels
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer

SMALL = CompactConfig(16, (8, 8), (0, 0), (0, 0), num_codes=64, code_dim=4)


@pytest.fixture
def tokenizer() -> CompactTokenizer:
    return CompactTokenizer(SMALL).eval()


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of noise, one of them broken, and a test split of two parts."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test_a", 2), ("test_b", 3)):
        rows = [row | {"label": f"class {number % 3}", "style": split} for number, row in enumerate(numbered(count))]
        folder = with_metadata(tmp_path / "set" / split, rows)
        for path in folder.glob("*.png"):
            Image.fromarray(random.integers(0, 256, (40, 24, 3), np.uint8)).save(path)
    (tmp_path / "set" / "train" / "05.png").write_bytes(b"broken")
    return tmp_path / "set"


def test_they_are_what_the_tokenizer_gives(pictures, tokenizer, tmp_path, capsys):
    made = tokenize(pictures, "train", tokenizer, tmp_path / "tokens", batch_size=4)
    assert "1 of 12 images cannot be read and are left out: 05.png" in capsys.readouterr().err
    train = load(pictures, "train", 16)
    expected = torch.cat([tokenizer.encode(to_pixels(train.pixels[[row]])) for row in range(11)])
    assert made.tokens.shape == (11, 1, 16)
    assert made.tokens.dtype == np.int16
    assert isinstance(made.tokens, np.memmap)
    np.testing.assert_array_equal(made.tokens[:, 0], expected)
    opened = TokenSet.load(tmp_path / "tokens", "train")
    for one in (made, opened):
        assert list(one.captions) == train.captions
        assert one.captions[6] == ["number 7"]
        assert one.captions[5:7] == [["number 6"], ["number 7"]]
        assert one.labels.tolist() == train.labels.tolist()
        assert one.class_names == ("class 0", "class 1", "class 2")
        assert {name: values.tolist() for name, values in one.columns.items()} == {"style": ["train"] * 11}
        np.testing.assert_array_equal(one.weights, train.weights)
        one.require_captions()
        one.require_labels()


def test_they_are_made_once(pictures, tokenizer, tmp_path):
    tokenize(pictures, "train", tokenizer, tmp_path)
    tokenizer.encoder.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
    assert len(tokenize(pictures, "train", tokenizer, tmp_path)) == 11


def test_an_interrupted_run_goes_on(pictures, tokenizer, tmp_path):
    whole = tokenize(pictures, "train", tokenizer, tmp_path / "whole", batch_size=3)
    calls = []

    def interrupted(encoder, inputs):
        calls.append(len(inputs[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt

    tokenizer.encoder.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize(pictures, "train", tokenizer, tmp_path / "tokens", batch_size=3, record_every=0.0)
    with pytest.raises(InputError, match="has no tokens of a split 'train'"):
        TokenSet.load(tmp_path / "tokens", "train")
    again = tokenize(pictures, "train", tokenizer, tmp_path / "tokens", batch_size=3)
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    assert list(again.names) == list(whole.names)
    assert calls == [3, 2, 3, 3, 3]


def test_splits_that_begin_alike_are_joined(pictures, tokenizer, tmp_path):
    for split in ("test_a", "test_b"):
        tokenize(pictures, split, tokenizer, tmp_path / "each")
    joined = TokenSet.load(tmp_path / "each", "test")
    at_once = tokenize(pictures, "test", tokenizer, tmp_path / "tokens")
    np.testing.assert_array_equal(joined.tokens, at_once.tokens)
    assert list(joined.captions) == list(at_once.captions)
    assert joined.columns["style"].tolist() == ["test_a"] * 2 + ["test_b"] * 3
    np.testing.assert_allclose(joined.weights, 1 / 5)


def test_views_are_the_picture_its_mirror_image_and_crops(tmp_path):
    path = tmp_path / "a.png"
    wide = Image.fromarray(np.arange(20 * 40 * 3, dtype=np.uint32).reshape(20, 40, 3).astype(np.uint8))
    wide.save(path)
    views = Views(flip=True, crops=3)
    assert len(views) == 6
    made = views.of(wide, "a.png", 10)
    np.testing.assert_array_equal(made[1::2], made[::2, :, ::-1])
    np.testing.assert_array_equal(made[0], Views().of(wide, "b.png", 10)[0])  # the middle square
    assert len({view.tobytes() for view in made}) == 6
    np.testing.assert_array_equal(made, views.of(wide, "a.png", 10))
    assert (made[2:] != views.of(wide, "b.png", 10)[2:]).any()  # other places in another picture


def test_crops_stay_inside_and_are_not_small():
    """Every crop of a white picture is white, also of one a single pixel high."""
    for size in [(50, 30), (1, 9), (16, 16)]:
        assert (Views(crops=8).of(Image.new("RGB", size, "white"), "x", 8) == 255).all()


def test_views_are_tokenized(pictures, tokenizer, tmp_path):
    both = tokenize(pictures, "test_b", tokenizer, tmp_path / "both", views=Views(flip=True))
    test = load(pictures, "test_b", 16)
    assert both.tokens.shape == (3, 2, 16)
    for view, pixels in enumerate((test.pixels, test.pixels[:, :, ::-1])):
        np.testing.assert_array_equal(both.tokens[:, view], tokenizer.encode(to_pixels(pixels)))
    with pytest.raises(InputError, match="crops is 0"):
        Views(crops=0)


def test_tokens_of_another_tokenizer_are_refused(pictures, tokenizer, tmp_path):
    other = CompactTokenizer(SMALL).eval()
    made = tokenize(pictures, "test_a", tokenizer, tmp_path)
    made.check_tokenizer(tokenizer)
    with pytest.raises(InputError, match="tokens of another image tokenizer"):
        made.check_tokenizer(other)
    with pytest.raises(InputError, match="test_a was made with another tokenizer: remove it"):
        tokenize(pictures, "test_a", other, tmp_path)
    with pytest.raises(InputError, match="another flip and crops"):
        tokenize(pictures, "test_a", tokenizer, tmp_path, views=Views(True, 2))
    picture(1).save(pictures / "test_a" / "new.png")
    with pytest.raises(InputError, match="another data"):
        tokenize(pictures, "test_a", tokenizer, tmp_path)
    tokenize(pictures, "test_b", other, tmp_path)
    with pytest.raises(InputError, match="different image tokenizers"):
        TokenSet.load(tmp_path, "test")


def test_a_fingerprint_is_of_configuration_and_weights(tokenizer):
    first = fingerprint(tokenizer)
    assert fingerprint(tokenizer) == first
    with torch.no_grad():
        next(tokenizer.parameters()).view(-1)[0] += 1e-6
    assert fingerprint(tokenizer) != first
    assert fingerprint(tokenizer.half()) != fingerprint(tokenizer.float())


def test_many_codes_need_wider_numbers(pictures, tmp_path):
    large = CompactTokenizer(CompactConfig(16, (8,), (0,), (0,), num_codes=40_000, code_dim=2)).eval()
    assert tokenize(pictures, "test_a", large, tmp_path).tokens.dtype == np.int32
