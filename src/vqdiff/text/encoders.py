"""Text features from a frozen transformers encoder."""

from __future__ import annotations

import html
import itertools
import shutil
import warnings
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.extras import require
from vqdiff.foundation.files import read_json
from vqdiff.foundation.shapes import Float, Int
from vqdiff.text.bert import Bert, BertConfig
from vqdiff.text.emoji_names import spell_out, spelled
from vqdiff.text.weights import token_weights


class TextEncoder:
    """A transformers encoder, read from a folder: text → last hidden states, zero at padding.

    Emoji are read as their names. ``max_tokens`` counts the special tokens at both ends.
    """

    def __init__(self, folder: Path, max_tokens: int = 32, *, shapes_only: bool = False) -> None:
        from tokenizers import Tokenizer

        self.folder, self.max_tokens = folder, max_tokens
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"{folder} is not a complete text encoder: tokenizer.json is missing")
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing more specific
            raise InputError(f"{folder / 'tokenizer.json'} is broken: {error}") from error
        try:
            self.model: Any = _read_encoder(folder, shapes_only)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{folder} is not a complete text encoder: {str(error).splitlines()[0]}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.width: int = self.model.config.hidden_size

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the network to ``device``."""
        self.model.to(device)
        return self

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError for the first text that does not fit; warn about texts without a known word."""
        self._pieces(texts)
        for remark in self.remarks(texts):
            warnings.warn(remark, InputWarning, stacklevel=2)

    def remarks(self, texts: Sequence[str]) -> list[str]:
        """Return a line for each text without a known word, as its image will have nothing to do with it."""
        return [
            f"no word of the prompt {text[:40]!r} is known to this model, so the image has nothing to do with it: "
            "use other words, most likely English ones"
            for text in dict.fromkeys(texts)
            if not self._knows(text)
        ]

    def _knows(self, text: str) -> bool:
        """Whether the vocabulary has a word of ``text``, or the text has no words.

        A word is not known if it is spelled: if it has several pieces, with fewer than 1.5 letters on average.
        """
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        encoding = self.tokenizer.encode(spell_out(text), add_special_tokens=False)
        words = dict[int | None, list[int]]()
        for piece, word, (start, end) in zip(encoding.tokens, encoding.word_ids, encoding.offsets, strict=True):
            if piece == unknown or any(map(str.isalnum, piece)):
                words.setdefault(word, []).append(0 if piece == unknown else end - start)
        known = [
            0 not in lengths and (len(lengths) == 1 or sum(lengths) >= 1.5 * len(lengths)) for lengths in words.values()
        ]
        return not known or any(known)

    def fit(self, text: str) -> str:
        """Return the leading words of ``text`` that fit."""
        text = spell_out(text)
        if len(self.tokenizer.encode(text).ids) <= self.max_tokens:
            return text
        words = text.split()
        while len(self.tokenizer.encode(" ".join(words)).ids) > self.max_tokens:
            words = words[:-1] or [words[0][: len(words[0]) // 2]]
        return " ".join(words)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B N C"]:
        """Return the features of ``texts``, N = max_tokens; raises InputError for a text that does not fit."""
        pieces = [torch.tensor(one) for one in self._pieces(texts)]
        ids, mask = (
            nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)
            for rows in (pieces, [torch.ones_like(one) for one in pieces])
        )
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        return nn.functional.pad(states, (0, 0, 0, self.max_tokens - states.shape[1]))

    def token_weights(self, text: str, weights: Sequence[float]) -> Float[Tensor, "N"]:
        """Return the weight of each token of ``text``, N = max_tokens, from those of its characters."""
        if all(weight == 1 for weight in weights):
            return torch.ones(self.max_tokens)
        characters = [(char, 1.0 if place is None else weights[place]) for char, place in spelled(text)]
        offsets = self.tokenizer.encode("".join(char for char, _ in characters)).offsets
        return token_weights(characters, offsets, self.max_tokens)

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the checked word pieces of texts, with special tokens at both ends."""
        found = [one.ids for one in self.tokenizer.encode_batch_fast([spell_out(text) for text in texts])]
        for text, pieces in zip(texts, found, strict=True):
            if len(pieces) > self.max_tokens:
                raise InputError(
                    f"the prompt {text[:40] + '…'!r} has {len(pieces) - 2} word pieces, "
                    f"the limit is {self.max_tokens - 2}: shorten it"
                )
        return found

    def save(self, folder: Path) -> None:
        """Copy the transformers folder."""
        shutil.copytree(self.folder, folder)


class ClipTextEncoder:
    """A CLIP text tower as the published models use it: the last states of all 77 positions, each of length 1.

    Padding is encoded and attended to like words. Longer texts are truncated, with a warning. The published program ran
    the tower in float16; here it runs in float32 (the features differ by up to 6e-4).
    """

    def __init__(self, model: Any, tokenizer: Any | None) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.max_tokens: int = model.config.max_position_embeddings
        self.width: int = model.config.hidden_size

    @classmethod
    def read(cls, folder: Path, *, shapes_only: bool = False) -> ClipTextEncoder:
        """Read what :meth:`save` wrote; raises InputError if it is broken."""
        require("a CLIP text encoder", "clip")
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            model = _read_model(CLIPTextModel, folder, shapes_only)
            has_words = (folder / "tokenizer.json").is_file()
            return cls(model, CLIPTokenizer.from_pretrained(folder, local_files_only=True) if has_words else None)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{folder} is not a complete text encoder: {str(error).splitlines()[0]}") from error

    def to(self, device: torch.device | str) -> ClipTextEncoder:
        """Move the network to ``device``."""
        self.model.to(device)
        return self

    def check(self, texts: Sequence[str]) -> None:
        """Warn about texts that will be truncated."""
        for text in texts:
            if len(pieces := self._pieces(text)) > self.max_tokens - 2:
                warnings.warn(
                    f"the prompt {text[:40] + '…'!r} has {len(pieces)} word pieces: the last "
                    f"{len(pieces) - self.max_tokens + 2} are cut",
                    stacklevel=3,
                )

    def remarks(self, texts: Sequence[str]) -> list[str]:
        """Return nothing: CLIP's vocabulary has pieces for every script."""
        del texts
        return []

    def fit(self, text: str) -> str:
        """Return the text unchanged: :meth:`encode` truncates it."""
        return text

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B N C"]:
        """Return the features of ``texts``, N = max_tokens."""
        return self.encode_ids(torch.tensor([self.ids(text) for text in texts]))

    def token_weights(self, text: str, weights: Sequence[float]) -> Float[Tensor, "N"]:
        """Return the weight of each token of ``text``, N = max_tokens, from those of its characters."""
        if all(weight == 1 for weight in weights) or self.tokenizer is None:
            return torch.ones(self.max_tokens)
        characters = list[tuple[str, float]]()
        for weight, run in itertools.groupby(zip(text, weights, strict=True), key=itemgetter(1)):
            characters += [(char, weight) for char in _unescaped("".join(char for char, _ in run))]
        cleaned = "".join(char for char, _ in characters)
        found = self.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens = [(0, 0), *found["offset_mapping"][: self.max_tokens - 2]]
        return token_weights(characters, tokens, self.max_tokens)

    def ids(self, text: str) -> list[int]:
        """Return the word pieces of ``text`` between CLIP's start and end tokens, padded with 0."""
        start, end = self.model.config.vocab_size - 2, self.model.config.vocab_size - 1
        pieces = self._pieces(text)[: self.max_tokens - 2]
        return [start, *pieces, end] + [0] * (self.max_tokens - 2 - len(pieces))

    @torch.no_grad()
    def encode_ids(self, ids: Int[Tensor, "B N"]) -> Float[Tensor, "B N C"]:
        """Return the features of word pieces."""
        return nn.functional.normalize(self.model(input_ids=ids.to(self.model.device)).last_hidden_state, dim=-1)

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def _pieces(self, text: str) -> list[int]:
        text = _unescaped(text).strip()
        if not text:
            return []
        if self.tokenizer is None:
            size = self.model.config.vocab_size
            raise InputError(f"this text encoder has {size} word pieces, not CLIP's 49408, and no vocabulary")
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _unescaped(text: str) -> str:
    """As in OpenAI's cleaning: web captions contain entities, some of them escaped twice."""
    return html.unescape(html.unescape(text))


def _read_encoder(folder: Path, shapes_only: bool) -> Any:
    """Read any encoder of transformers; BERT's without transformers, which takes seconds to import."""
    weights = folder / "model.safetensors"
    config = BertConfig.of(read_json(folder / "config.json"))
    if config is not None and weights.is_file():
        return Bert.read(config, None if shapes_only else weights)
    require(f"the text encoder in {folder}", "clip")
    from transformers import AutoModel

    return _read_model(AutoModel, folder, shapes_only)


def _read_model(kind: Any, folder: Path, shapes_only: bool) -> Any:
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not shapes_only:
        return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


AnyTextEncoder = TextEncoder | ClipTextEncoder


def read_text_encoder(folder: Path, max_tokens: int) -> AnyTextEncoder:
    """Read the encoder in a transformers folder: CLIP's text tower as the published models use it, or another network.

    Raises InputError if there is none, or if it is incomplete.
    """
    if not str(read_json(folder / "config.json").get("model_type", "")).startswith("clip"):
        return TextEncoder(folder, max_tokens)
    encoder = ClipTextEncoder.read(folder)
    if encoder.max_tokens != max_tokens:
        raise InputError(f"max_tokens is {max_tokens}: this CLIP needs {encoder.max_tokens}")
    return encoder
