"""The installed diffusers and this package compute the same, on random weights and in both directions.

Tolerances, all absolute and in float32: features 2e-6, log-probabilities 2e-5, probabilities of the posterior 1e-5,
pixels 2e-5; what is kept by truncation, tokens and weights are equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_cases import GOLDEN
from vqdiff.checkpoints import read_model, to_diffusers
from vqdiff.checkpoints.diffusers import NULL_FOLDER
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule, guide, posterior_log_probs, truncate
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import VQGAN, AbsentConfig, AbsentTokenizer, VQGANConfig
from vqdiff.model import Model
from vqdiff.text import ClipTextEncoder, NullCondition, NullConfig

CODES, GRID, STEPS, HEADS = 30, 4, 20, 4
NOISE = {"alpha_cum_start": 0.999, "alpha_cum_end": 1e-4, "gamma_cum_start": 2e-4, "gamma_cum_end": 0.9}
TEXTS = ["the bear in the pool", "An Old red boat"]


@pytest.fixture(scope="module")
def clip() -> ClipTextEncoder:
    encoder = read_model(GOLDEN / "diffusers" / "pipeline", {}).text_encoder
    assert isinstance(encoder, ClipTextEncoder)
    return encoder


def randomise(module: torch.nn.Module) -> None:
    """Weights large enough for sharp predictions, biases that are not 0."""
    for name, weight in module.named_parameters():
        scale = 0.1 if weight.ndim == 1 else 1.5 * weight[0].numel() ** -0.5
        if "emb" in name or name == "embeddings":
            scale = 0.7
        weight.data = torch.randn_like(weight) * scale + (weight.ndim == 1 and "norm" in name and "weight" in name)


def their_pipeline() -> Any:
    from diffusers import Transformer2DModel, VQDiffusionScheduler, VQModel  # type: ignore[attr-defined]
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings,
        VQDiffusionPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    transformer: Any = Transformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=6, num_layers=2, num_vector_embeds=CODES + 1, sample_size=GRID,
        cross_attention_dim=32, num_embeds_ada_norm=STEPS, activation_fn="geglu-approximate", attention_bias=True,
        norm_type="ada_norm",
    )  # fmt: skip
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64, 64), layers_per_block=1, latent_channels=8, num_vq_embeddings=CODES, vq_embed_dim=6,
    )  # fmt: skip
    null = LearnedClassifierFreeSamplingEmbeddings(learnable=True, hidden_size=32, length=77)
    for module in (transformer, vqvae, null):
        randomise(module)
    clip = GOLDEN / "diffusers" / "pipeline"
    return VQDiffusionPipeline(
        vqvae=vqvae,
        text_encoder=CLIPTextModel.from_pretrained(clip / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(clip / "tokenizer"),
        transformer=transformer,
        scheduler=VQDiffusionScheduler(CODES + 1, STEPS, **NOISE),
        learned_classifier_free_sampling_embeddings=null,
    )


def our_model(clip: ClipTextEncoder, *, gumbel: bool, null: str = "learnable") -> Model:
    denoiser = ClassicDenoiser(
        ClassicConfig(CODES, STEPS, GRID, 24, 2, HEADS, text_width=32, position_rows=GRID, position_columns=GRID)
    )
    codec = VQGAN(VQGANConfig(8, 32, (1, 2), 1, (1,), 8, 6, 50 if gumbel else CODES, CODES, gumbel))
    if gumbel:
        codec.codebook.class_of = torch.randint(CODES, (50,))
        codec.codebook.code_of = torch.randperm(50)[:CODES]
    empty = NullCondition(NullConfig(null, 77, 32))  # type: ignore[arg-type]
    for module in (denoiser, codec, empty):
        randomise(module)
    if null == "empty":
        empty.set_empty(clip)
    a, b, c, d = NOISE.values()
    schedule = Schedule.linear(STEPS, CODES, (a, b), (c, d))
    return Model(schedule, denoiser.eval(), codec.eval(), clip, empty)


def part_by_part(folder: Path) -> Any:
    """What current diffusers and transformers load of a folder, as one pipeline."""
    import diffusers
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings,
        VQDiffusionPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    lib: Any = diffusers
    parts = {
        "transformer": lib.Transformer2DModel, "vqvae": lib.VQModel, "scheduler": lib.VQDiffusionScheduler,
        "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer, NULL_FOLDER: LearnedClassifierFreeSamplingEmbeddings,
    }  # fmt: skip
    return VQDiffusionPipeline(**{name: kind.from_pretrained(folder, subfolder=name) for name, kind in parts.items()})


@torch.no_grad()
def same(model: Model, pipe: Any) -> None:
    """Every part of `model` computes what the part of `pipe` does."""
    condition, null = model.encode(TEXTS), model.null(2)
    assert condition is not None
    theirs = pipe._encode_prompt(TEXTS, 1, True)
    close(torch.cat([null, condition]), theirs, 2e-6)  # type: ignore[list-item]
    x = torch.randint(0, CODES + 1, (2, GRID**2))
    x[0] = CODES
    peak = 0.0
    for t in (1, 2, STEPS // 2, STEPS):
        their_t = torch.tensor(t - 1)
        log_p = pipe.transformer(torch.cat([x, x]), encoder_hidden_states=theirs, timestep=their_t).sample
        uncond, cond = (model.denoiser(x, torch.full((2,), t), c) for c in (null, condition))
        close(uncond.log_softmax(-1), log_p[:2].transpose(1, 2), 2e-5)
        close(cond.log_softmax(-1), log_p[2:].transpose(1, 2), 2e-5)
        mixed = log_p[:2] + 3 * (log_p[2:] - log_p[:2])
        mixed -= mixed.logsumexp(1, keepdim=True)
        guided = guide(cond, uncond, 3.0)
        close(guided, mixed.transpose(1, 2), 1e-4)  # the error of the predictions, times 3 and 2
        kept = truncate(guided, 0.8)
        assert torch.equal(kept.isfinite(), pipe.truncate(mixed, 0.8).transpose(1, 2).isfinite())
        if t > 1:  # at their last step there is no posterior: x0 is drawn
            expected = pipe.scheduler.q_posterior(mixed.clamp(-70), x, their_t).exp()
            found = posterior_log_probs(model.schedule, guided, x, torch.full((2,), t)).exp()
            close(found, expected.transpose(1, 2), 1e-5)
            peak = max(peak, float(found[:, :, :CODES].max()))
    assert peak > 0.3  # the predictions are sharp enough to tell mistakes
    tokens = torch.randint(0, CODES, (2, GRID**2))
    latents = pipe.vqvae.quantize.get_codebook_entry(tokens, shape=(2, GRID, GRID, 6))
    decoded = pipe.vqvae.decode(latents, force_not_quantize=True).sample
    close(model.image_tokenizer.decode(tokens), (decoded / 2 + 0.5).clamp(0, 1), 2e-5)
    size = model.image_tokenizer.config.image_size
    pixels = torch.rand(2, 3, size, size)
    latents = pipe.vqvae.encode(pixels * 2 - 1).latents
    close(model.image_tokenizer.latents(pixels), latents, 2e-5)
    if not model.image_tokenizer.config.gumbel:
        tokens = pipe.vqvae.quantize(latents)[2][2].view(2, -1)
        assert torch.equal(model.image_tokenizer.encode(pixels), tokens)


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    worst = float((ours - theirs).abs().max())
    assert worst <= atol, f"{worst} is more than {atol}"


def test_what_they_save_we_load(tmp_path: Path) -> None:
    pipe = their_pipeline()
    pipe.save_pretrained(tmp_path / "theirs")
    same(read_model(tmp_path / "theirs", {}), pipe)


@pytest.mark.parametrize("gumbel", [False, True])
def test_what_we_write_they_load_part_by_part(clip: ClipTextEncoder, gumbel: bool, tmp_path: Path) -> None:
    model = our_model(clip, gumbel=gumbel)
    lost = to_diffusers.write(model, tmp_path / "ours")
    assert len(lost) == gumbel
    pipe = part_by_part(tmp_path / "ours")
    same(model, pipe)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(TEXTS, num_inference_steps=2).images[0].size == (8, 8)


def test_an_empty_text_as_null(clip: ClipTextEncoder, tmp_path: Path) -> None:
    model = our_model(clip, gumbel=False, null="empty")
    to_diffusers.write(model, tmp_path / "ours")
    same(model, part_by_part(tmp_path / "ours"))
    same(read_model(tmp_path / "ours", {}), part_by_part(tmp_path / "ours"))


def test_there_and_back(clip: ClipTextEncoder, tmp_path: Path) -> None:
    model = our_model(clip, gumbel=False)
    to_diffusers.write(model, tmp_path / "ours")
    again = read_model(tmp_path / "ours", {})
    assert (again.schedule, again.denoiser.config) == (model.schedule, model.denoiser.config)
    for one, other in ((model.denoiser, again.denoiser), (model.image_tokenizer, again.image_tokenizer)):
        assert one.config == other.config
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    assert torch.equal(again.null(1), model.null(1))  # type: ignore[arg-type]
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))  # type: ignore[arg-type]


def test_openais_vocabulary_there_and_back(clip: ClipTextEncoder, tmp_path: Path) -> None:
    """The 49,408 words that come with this package, as current transformers read them from the folder written."""
    from transformers import CLIPTokenizer

    from vqdiff.checkpoints.clip import openai_tokenizer

    model = our_model(clip, gumbel=False)
    model.text_encoder = ClipTextEncoder(clip.model, openai_tokenizer())
    to_diffusers.write(model, tmp_path / "ours")
    theirs: Any = CLIPTokenizer.from_pretrained(tmp_path / "ours", subfolder="tokenizer")
    text = "A painting of a fox in the style of starry night, 8k café"
    found = theirs(text, padding="max_length", max_length=77)["input_ids"]
    pieces = openai_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert found == [49406, *pieces, 49407] + [0] * (75 - len(pieces))


def test_half_precision(clip: ClipTextEncoder, tmp_path: Path) -> None:
    to_diffusers.write(our_model(clip, gumbel=False), tmp_path / "ours", torch.bfloat16)
    again = read_model(tmp_path / "ours", {}, dtype=torch.bfloat16)
    assert again.denoiser.head.weight.dtype == torch.bfloat16
    assert again.image_tokenizer.from_code.weight.dtype == torch.float32


def test_what_diffusers_has_no_place_for(clip: ClipTextEncoder, tmp_path: Path) -> None:
    def refused(words: str, **changes: Any) -> None:
        model = our_model(clip, gumbel=False)
        for name, value in changes.items():
            setattr(model, name, value)
        with pytest.raises(InputError, match=words):
            to_diffusers.write(model, tmp_path / "ours")
        assert not list(tmp_path.iterdir())

    refused("AbsentTokenizer", image_tokenizer=AbsentTokenizer(AbsentConfig(GRID, CODES, "some.pth")))
    refused("vocabulary", text_encoder=ClipTextEncoder(clip.model, None))
    refused("text models", denoiser=ClassicDenoiser(ClassicConfig(CODES, STEPS, GRID, 24, 2, HEADS)))
    text = {"text_width": 32, "num_codes": CODES, "num_steps": STEPS, "grid_size": GRID, "width": 24, "depth": 1}
    refused("position table", denoiser=ClassicDenoiser(ClassicConfig(**text, heads=2)))


def test_a_refused_folder_is_the_reason_why(tmp_path: Path) -> None:
    """Current diffusers cannot load its own folder: the day it can, docs/migrating.md should say so."""
    from diffusers import DiffusionPipeline

    their_pipeline().save_pretrained(tmp_path / "theirs")
    with pytest.raises((ValueError, AttributeError, ImportError)):
        DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "model_index.json").read_text())["_class_name"] == "VQDiffusionPipeline"
