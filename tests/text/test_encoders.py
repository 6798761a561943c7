"""Text features and the null condition, with the bundled encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

import vqdiff
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.text import NullCondition, NullConfig, TextEncoder
from vqdiff.text.bert import Bert, BertConfig

pytestmark = pytest.mark.numeric

FOLDER = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(FOLDER, max_tokens=12)


def test_features_are_padded_with_zeros(encoder: TextEncoder) -> None:
    features = encoder.encode(["a red apple", "a cat"])
    assert features.shape == (2, 12, 384)
    assert features.ne(0).any(-1).sum(1).tolist() == [5, 4]  # the words, and a special token at each end


def test_features_do_not_depend_on_the_batch(encoder: TextEncoder) -> None:
    alone = encoder.encode(["a cat"])
    together = encoder.encode(["a much longer prompt about a dog", "a cat"])[1:]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_synonyms_are_near(encoder: TextEncoder) -> None:
    puppy, dog, tax = encoder.encode(["puppy", "dog", "tax"]).sum(1)
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(puppy, dog, 0) > similarity(puppy, tax, 0) + 0.1


def test_dropped_words_are_spelt_out(encoder: TextEncoder) -> None:
    pieces = encoder.tokenizer.encode("xylograph", add_special_tokens=False).tokens
    assert len(pieces) > 1
    assert "".join(pieces).replace("##", "") == "xylograph"


def test_bert_is_that_of_transformers(encoder: TextEncoder) -> None:
    texts = ["a red apple", "", "woman farmer: medium-dark skin tone, 3D style", "Ünïcødé 苹果 ★\t!"]
    assert isinstance(encoder.model, Bert)
    theirs = AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(FOLDER)(texts, padding=True, return_tensors="pt")
    states = theirs(**batch).last_hidden_state * batch["attention_mask"][..., None]
    ours = TextEncoder(FOLDER, max_tokens=32).encode(texts)[:, : states.shape[1]]
    torch.testing.assert_close(ours, states, atol=2e-5, rtol=0)


def test_older_files_of_bert_are_read_too(tmp_path: Path, encoder: TextEncoder) -> None:
    older = {
        "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value.clone()
        for name, value in encoder.model.state_dict().items()
    }
    save_file(older, tmp_path / "model.safetensors")
    read = Bert.read(encoder.model.config, tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(value, read[name]) for name, value in encoder.model.state_dict().items())


def test_another_network_is_not_taken_for_bert() -> None:
    known = json.loads((FOLDER / "config.json").read_text())
    assert BertConfig.of(known) is not None
    for change in ({"model_type": "roberta"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}):
        assert BertConfig.of({**known, **change}) is None
    assert BertConfig.of({"model_type": "bert"}) is None


def test_over_long_prompts_are_named_with_the_limit(encoder: TextEncoder) -> None:
    with pytest.raises(InputError, match="11 word pieces, the limit is 10"):
        encoder.encode(["a cat", "one two three four five six seven eight nine ten eleven"])


def test_null_kinds(encoder: TextEncoder) -> None:
    learnable, empty, zero = (NullCondition(NullConfig(kind, 12)) for kind in ("learnable", "empty", "zero"))
    empty.set_empty(encoder)
    assert [len(list(null.parameters())) for null in (learnable, empty, zero)] == [1, 0, 0]
    assert learnable(3).shape == (3, 12, 384)
    torch.testing.assert_close(empty(1), encoder.encode([""]))
    assert not zero(2).any()


@pytest.mark.parametrize(
    ("emoji", "name"),
    [("🍎", "red apple"), ("two 🐱", "two cat face"), ("👩🏽\u200d🌾", "woman farmer with medium skin tone")],
)
def test_emoji_are_read_as_their_names(emoji: str, name: str, encoder: TextEncoder) -> None:
    torch.testing.assert_close(encoder.encode([emoji]), encoder.encode([name]), atol=0, rtol=0)
    assert encoder.fit(emoji) == name


def test_a_prompt_without_a_known_word_is_reported(encoder: TextEncoder) -> None:
    for text in ("تفاحة", "קפה", "קפה!", "xyzzy qqq"):  # the last is spelled by pieces of single letters
        with pytest.warns(InputWarning, match=f"no word of the prompt '{text}' is known to this model"):
            encoder.check([text])
    assert encoder.remarks(["a red apple", "🍎", "קפה cup", "xylograph", "qqq cat", "x", "letter x", "", "!"]) == []
    assert len(encoder.remarks(["קפה", "קפה"])) == 1


def test_too_long_prompts_are_quoted_as_they_were_written(encoder: TextEncoder) -> None:
    with pytest.raises(InputError, match=r"the prompt '👍🏽👍🏽👍🏽…' has .* word pieces"):
        encoder.check(["👍🏽👍🏽👍🏽"])
