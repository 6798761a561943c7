"""Reading the published files: every weight found, nothing but dead weight left over, clear words where one is missing.

``published_shapes.json.gz`` has the keys and shapes of the full-size models; the networks are built without memory.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_cases import load
from vqdiff.checkpoints.microsoft import read_denoiser
from vqdiff.checkpoints.taming import read_codec
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers.vqgan import VQGAN, VQGANConfig

SHAPES = json.loads(gzip.decompress((Path(__file__).parent / "published_shapes.json.gz").read_bytes()))


def published(model: str) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in SHAPES[model].items()}


def small_denoiser() -> dict[str, Tensor]:
    return {key.removeprefix("sd/"): value for key, value in load("text_conv_mlp").items() if key.startswith("sd/")}


TEXT = ClassicConfig(text_width=512)
LARGE = ClassicConfig(num_codes=4096, width=1408, depth=36, text_width=512)
IMAGENET = ClassicConfig(num_codes=974, grid_size=16, width=512, depth=24, conv_mlp=True, num_classes=1000)
FFHQ = ClassicConfig(num_codes=1024, grid_size=16, width=512, depth=20, conv_mlp=True)


@pytest.mark.parametrize(
    ("model", "config", "parameters"),
    [
        ("coco_transformer", TEXT, 388_780_871),
        ("ithq_model", LARGE, 1_359_274_624),
        ("imagenet_transformer", IMAGENET, 518_025_678),
        ("ffhq_transformer", FFHQ, 411_185_664),
    ],
)
def test_full_size_denoisers(model: str, config: ClassicConfig, parameters: int) -> None:
    reading = read_denoiser(published(model), grid_size=config.grid_size)
    assert reading.config == config
    masks = config.depth if config.text_width else 0
    assert reading.unused == tuple(sorted(f"blocks.{layer}.attn2.mask" for layer in range(masks)))
    with torch.device("meta"):
        denoiser = ClassicDenoiser(config)
    denoiser.load_state_dict(reading.weights, assign=True)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == parameters


@pytest.mark.parametrize(
    ("model", "quantizer", "config", "unused"),
    [
        (
            "ithq_vqvae",
            {},
            VQGANConfig(channels=64, channel_mult=(1, 2, 4, 8), code_dim=128, codebook_size=4096, num_codes=4096),
            ("quantize.cluster_size", "quantize.embedding_avg"),
        ),
        (
            "taming_f8_8192_openimages_encdec",
            {
                "quantize.embed.weight": (8192, 256),
                "quantize.proj.weight": (8192, 256, 1, 1),
                "quantize.proj.bias": (8192,),
            },
            VQGANConfig(gumbel=True),
            (),
        ),
        (
            "vqgan_imagenet_f16_16384_encdec",
            {"quantize.embedding.weight": (16384, 256)},
            VQGANConfig(channel_mult=(1, 1, 2, 2, 4), attention_levels=(4,), codebook_size=16384, num_codes=16384),
            (),
        ),
    ],
)
def test_full_size_codecs(
    model: str, quantizer: dict[str, tuple[int, ...]], config: VQGANConfig, unused: tuple[str, ...]
) -> None:
    state = published(model) | {key: torch.empty(shape, device="meta") for key, shape in quantizer.items()}
    if quantizer:
        state |= {
            "quant_conv.weight": torch.empty(256, 256, 1, 1, device="meta"),
            "quant_conv.bias": torch.empty(256, device="meta"),
            "post_quant_conv.weight": torch.empty(256, 256, 1, 1, device="meta"),
            "post_quant_conv.bias": torch.empty(256, device="meta"),
        }
    reading = read_codec(state)
    assert reading.config == config
    assert reading.unused == unused
    with torch.device("meta"):
        VQGAN(config).load_state_dict(reading.weights, assign=True)


def test_a_whole_checkpoint_holds_the_codec_too() -> None:
    reading, alone = read_codec(published("ithq_model")), read_codec(published("ithq_vqvae"))
    assert (reading.config, reading.unused) == (alone.config, alone.unused)


@pytest.mark.parametrize("layout", ["ema", "bare"])
def test_every_layout_gives_the_same_weights(layout: str) -> None:
    model = small_denoiser()
    prefix = {"ema": "transformer.", "bare": "transformer.transformer."}[layout]
    reading = read_denoiser({k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}, heads=4)
    expected = read_denoiser(model, heads=4)
    assert reading.config == expected.config
    assert reading.unused == expected.unused == ("blocks.0.attn2.mask", "blocks.1.attn2.mask")
    assert reading.weights.keys() == expected.weights.keys()
    assert all(torch.equal(value, expected.weights[key]) for key, value in reading.weights.items())


def test_a_learned_null_class_is_recognised_by_its_row() -> None:
    state = published("imagenet_transformer")
    for key in state:
        if key.endswith("ln2.emb.weight"):
            state[key] = torch.empty(1001, 512, device="meta")
    assert read_denoiser(state, grid_size=16).config.num_classes == 1000
    assert read_denoiser(state, grid_size=16).config.null_class
    assert read_denoiser(state, grid_size=16, null_class=False).config.num_classes == 1001
    assert not read_denoiser(published("imagenet_transformer"), grid_size=16).config.null_class


def test_a_missing_weight_is_named() -> None:
    state = small_denoiser()
    del state["transformer.transformer.blocks.1.attn2.value.bias"]
    with pytest.raises(InputError, match=r"blocks\.1\.attn2\.value\.bias is missing"):
        read_denoiser(state, heads=4)


def test_a_weight_of_the_wrong_shape_is_named() -> None:
    state = small_denoiser()
    state["transformer.transformer.blocks.0.attn1.key.weight"] = torch.zeros(24, 23)
    with pytest.raises(InputError, match=r"blocks\.0\.attn1\.key\.weight has shape \(24, 23\), but \(24, 24\) fits"):
        read_denoiser(state, heads=4)


def test_an_unknown_weight_is_reported() -> None:
    state = small_denoiser() | {"transformer.transformer.blocks.0.novelty": torch.zeros(1)}
    assert "blocks.0.novelty" in read_denoiser(state, heads=4).unused


def test_files_without_the_network() -> None:
    with pytest.raises(InputError, match="no denoiser in this checkpoint"):
        read_denoiser(published("ithq_vqvae"))
    with pytest.raises(InputError, match="no image codec in this checkpoint"):
        read_codec(published("coco_transformer"))


def test_the_grid_is_required_where_the_file_lacks_it() -> None:
    with pytest.raises(InputError, match="pass grid_size"):
        read_denoiser(published("imagenet_transformer"))


@pytest.mark.parametrize("name", ["codec_gumbel", "codec_vq"])
def test_mapping_tables(name: str) -> None:
    data = load(name)
    mapping = data["in/full_to_reduced"]
    state = published("ithq_vqvae") | {"quantize.embedding": torch.empty(len(mapping), 128, device="meta")}
    reading = read_codec(state, mapping=mapping)
    assert reading.config.num_codes == len(data["exp/reduced_to_full"])
    assert torch.equal(reading.weights["codebook.class_of"], mapping)
    assert torch.equal(reading.weights["codebook.code_of"], data["exp/reduced_to_full"])


def test_mapping_tables_of_another_codec() -> None:
    state = published("ithq_vqvae")
    with pytest.raises(InputError, match=r"the mapping table has shape \(8192,\), this codec has 4096 codes"):
        read_codec(state, mapping=torch.zeros(8192, dtype=torch.int64))
    with pytest.raises(InputError, match="no code for class 1"):
        read_codec(state, mapping=2 * torch.arange(4096))
