"""Text features of captions: written batch by batch, read as they are requested, and those that the encoder gives."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vqdiff
from vqdiff.text import TextEncoder, read_text_encoder
from vqdiff.training.conditions import Captions

ENCODER = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"
CAPTIONS = [["a red apple", "an apple"], ["cat"], ["a cat that sleeps", "cat", "a red apple"]]


def test_features_are_the_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = read_text_encoder(ENCODER, 16)
    captions = Captions(CAPTIONS, encoder, tmp_path / "features.safetensors")
    rows = np.array([0, 1, 2, 2, 0, 2])
    drawn = captions.draw(rows, np.random.default_rng(0), slice(1, None))
    random = np.random.default_rng(0)
    texts = [CAPTIONS[row][random.integers(len(CAPTIONS[row]))] for row in rows][1:]
    torch.testing.assert_close(drawn, encoder.encode(texts), atol=0.03, rtol=0.03)  # one is in bfloat16
    assert "encoding 4 captions" in capsys.readouterr().out
    again = Captions(CAPTIONS, encoder, tmp_path / "features.safetensors")
    assert "encoding" not in capsys.readouterr().out
    assert torch.equal(again.draw(rows, np.random.default_rng(0), slice(1, None)), drawn)
    Captions(CAPTIONS[1:], encoder, tmp_path / "features.safetensors")
    assert "encoding 3 captions" in capsys.readouterr().out  # other texts: not those of the file


class Watched(TextEncoder):
    """Features whose batches are watched: how many are in memory when the next is requested."""

    class Network:
        device = torch.device("cpu")

        def state_dict(self) -> dict[str, Tensor]:
            return {}

    def __init__(self) -> None:
        self.max_tokens, self.width = 4, 8
        self.model, self.batches, self.alive = self.Network(), list[weakref.ref[Tensor]](), list[int]()

    def fit(self, text: str) -> str:
        return text

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.alive.append(sum(batch() is not None for batch in self.batches))
        features = torch.tensor([float(text) for text in texts])[:, None, None].expand(-1, 4, 8) + torch.ones(4, 8)
        self.batches.append(weakref.ref(features))
        return features


def test_memory_holds_a_batch_and_the_file_is_mapped(tmp_path: Path) -> None:
    encoder = Watched()
    file = tmp_path / "features.safetensors"
    captions = Captions([[str(number)] for number in range(1000)], encoder, file)
    assert len(encoder.alive) == 4
    assert max(encoder.alive) <= 1
    drawn = captions.draw(np.arange(1000), np.random.default_rng(0), slice(None))
    assert torch.equal(drawn[:, 3, 7], torch.arange(1000.0) + 1)
    if sys.platform == "linux":
        assert str(file) in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_other_programs_can_read_the_file(tmp_path: Path) -> None:
    Captions(CAPTIONS, read_text_encoder(ENCODER, 16), tmp_path / "features.safetensors")
    features = load_file(tmp_path / "features.safetensors")
    assert features["values"].dtype == torch.float16
    assert features["starts"].tolist()[0] == 0
    assert features["starts"].tolist()[-1] == len(features["values"])
