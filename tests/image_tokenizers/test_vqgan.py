"""The published codecs: latents, tokens and pictures equal to the original's."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_cases import GOLDEN, Case, cases, load
from vqdiff.checkpoints.taming import read_codec
from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers.vqgan import VQGAN, VQGANConfig

pytestmark = pytest.mark.numeric

TINY = VQGANConfig(
    image_size=8,
    channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attention_levels=(1,),
    latent_channels=4,
    code_dim=4,
    codebook_size=6,
    num_codes=6,
)


def name(case: Case) -> str:
    return case["case"]


def published(config: dict[str, Any], *, mapped: bool = True) -> VQGAN:
    file = torch.load(GOLDEN / config["weights_file"], weights_only=True)
    mapping = None
    if mapped and "mapping_file" in config:
        mapping = torch.load(GOLDEN / config["mapping_file"], weights_only=True)
    state = file["model"] if "model" in file else file["state_dict"]
    reading = read_codec(state, mapping=mapping, image_size=config["image_size"])
    codec = VQGAN(reading.config).eval()
    codec.load_state_dict(reading.weights)
    return codec


def pixels_of(data: dict[str, Tensor]) -> Tensor:
    return data["in/image"] / 255


@pytest.mark.parametrize("case", cases("codec"), ids=name)
@torch.no_grad()
def test_golden_encoding(case: Case) -> None:
    data, codec = load(case), published(case["config"])
    pixels = pixels_of(data)
    assert (codec.latents(pixels) - data["exp/latent"]).abs().max() <= case["tolerance"]["latent_atol"]
    assert torch.equal(codec.encode(pixels), data["exp/tokens"])
    assert torch.equal(published(case["config"], mapped=False).encode(pixels), data["exp/code_indices"])


@pytest.mark.parametrize("case", cases("codec"), ids=name)
@torch.no_grad()
def test_golden_decoding(case: Case) -> None:
    data, codec = load(case), published(case["config"])
    for tokens, pictures in (("in/tokens", "exp/decoded"), ("exp/tokens", "exp/reconstruction")):
        difference = codec.decode(data[tokens]) * 255 - data[pictures]
        assert difference.abs().max() <= case["tolerance"]["decoded_atol"]


def test_pixels_stay_in_range() -> None:
    codec = VQGAN(TINY)
    torch.nn.init.normal_(codec.decoder.conv_out.weight, std=100.0)
    pixels = codec.decode(torch.randint(6, (2, 16)))
    assert pixels.shape == (2, 3, 8, 8)
    assert (pixels.amin().item(), pixels.amax().item()) == (0, 1)


def test_unused_codes_fall_into_class_0() -> None:
    codebook = VQGAN(replace(TINY, num_codes=4)).codebook
    with torch.no_grad():
        codebook.codes.weight.copy_(torch.eye(6, 4))
        codebook.codes.weight[4:] = -torch.eye(2, 4)
    classes = codebook.encode(codebook.codes.weight[None])
    assert classes.tolist() == [[0, 1, 2, 3, 0, 0]]
    assert torch.equal(codebook.decode(classes)[0, 4], codebook.codes.weight[0])


def test_wrong_picture_size() -> None:
    with pytest.raises(InputError, match=r"takes 8 × 8 images, got \(1, 3, 8, 16\)"):
        VQGAN(TINY).encode(torch.zeros(1, 3, 8, 16))


@pytest.mark.parametrize(
    ("change", "message"), [({"image_size": 9}, "not a multiple of the patch size 2"), ({"num_codes": 7}, "more than")]
)
def test_impossible_config(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


def test_config_survives_json() -> None:
    assert build(VQGANConfig, json.loads(json.dumps(asdict(TINY))), "config.json") == TINY


def test_it_can_be_trained() -> None:
    model = VQGAN(TINY)
    pixels = torch.rand(2, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    optimizer, errors = torch.optim.AdamW(model.parameters(), lr=3e-3), list[float]()
    for _ in range(60):
        out = model(pixels)
        error = (out.pixels - pixels).square().mean()
        optimizer.zero_grad()
        (error + out.loss).backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < errors[0] / 3
    assert torch.equal(model.encode(pixels), model(pixels).tokens)
    assert model.last_layer.grad is not None


def test_a_gumbel_codebook_is_not_trained() -> None:
    with pytest.raises(InputError, match="gumbel = false"):
        VQGAN(replace(TINY, gumbel=True))(torch.rand(1, 3, 8, 8))
