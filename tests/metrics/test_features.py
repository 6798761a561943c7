from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqdiff.evaluation.judge import Judge
from vqdiff.evaluation.trial import Cell, Choices, Trial
from vqdiff.foundation.errors import InputError
from vqdiff.metrics.features import CLIP, EfficientNetLite0, Inception, standardise

SAMPLE = Path(__file__).parents[1] / "fixtures" / "emoji-sample"


class TinyInception(nn.Module):
    """Takes and gives what the usual TorchScript file does."""

    def forward(self, x: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        features = x.float().mean((2, 3)) / 255
        return features if return_features else features.softmax(1)


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    file = tmp_path / "inception.pt"
    torch.jit.script(TinyInception()).save(str(file))
    return file


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "<unk>", "red", "heart", "style", "emoji"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "clip"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder)
    small: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = small | {"vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": 5}
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_efficientnet_sees_what_its_package_computes() -> None:
    network, pixels = EfficientNetLite0(), torch.rand(2, 3, 64, 64)
    theirs = network.network.extract_features(standardise(pixels)).mean((2, 3))
    views = network(pixels)
    assert views.final.shape == (2, 1280)
    assert views.middle.shape == (2, 560)
    assert nn.functional.cosine_similarity(views.final, theirs).min() > 0.999  # bfloat16 against float32


def test_efficientnet_sees_tiny_pictures_enlarged() -> None:
    network, pixels = EfficientNetLite0(), torch.rand(2, 3, 8, 8)
    enlarged = pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(network(pixels).final, network(enlarged).final)


def test_inception_takes_8_bit_pictures(inception: Path) -> None:
    network, pixels = Inception(inception), torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    rounded = (pixels[..., 0, 0] * 255).round() / 255
    torch.testing.assert_close(network.features(pixels), rounded)
    torch.testing.assert_close(network.logits(pixels).softmax(1), rounded.softmax(1))


def test_clip_equals_transformers(clip: Path) -> None:
    from transformers import CLIPModel

    network, pixels = CLIP(clip), torch.rand(3, 3, 16, 16)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    texts = ["red heart", "style", "red emoji style"]
    whole = CLIPModel.from_pretrained(clip).eval()
    batch = network.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = whole(**batch, pixel_values=standardise(pixels, mean, std))
    ours = (
        nn.functional.normalize(network.features(pixels), dim=-1)
        @ nn.functional.normalize(network.texts(texts), dim=-1).T
    )
    torch.testing.assert_close(ours * whole.logit_scale.exp().detach(), out.logits_per_image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network", [Inception, CLIP])
def test_a_file_that_is_none_is_refused(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    file.write_bytes(b"no such thing")
    with pytest.raises(InputError, match="is no"):
        network(file)


def test_networks_of_ones_own_add_their_scores(inception: Path, clip: Path, tmp_path: Path) -> None:
    sizes: Any = {"num_pictures": 12, "seeds": (0,), "choices": 10}
    trial = Trial(SAMPLE, "train", "train", **sizes, inception=inception, clip=clip, drawn=tmp_path / "drawn")
    cell = Cell(sampling=Choices(steps=1, guidance=1.0))
    judge = Judge(trial, [cell])
    result = judge.measure(cell)
    assert list(result.scores) == [name for name in judge.scoring.names() if name in result.scores]
    assert set(result.scores) == set(judge.scoring.names())
    assert {"fid", "kid", "inception_score", "clip_score", "r_precision_clip"} <= result.scores.keys()
    assert "fd_effnet" in result.scores  # and never under the name of FID
    assert result.measurement.features == "efficientnet-lite0, inception, clip"
