"""diffusers' folders in every form of theirs: read with the recorded numbers, refused in one line where broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden_cases import GOLDEN, cases, load
from vqdiff.checkpoints import read_model
from vqdiff.checkpoints.diffusers import NULL_FOLDER
from vqdiff.diffusion import guide, posterior_log_probs, truncate
from vqdiff.foundation.errors import InputError
from vqdiff.model import Model

CASE = cases("diffusers")[0]
FOLDER, VARIANTS = GOLDEN / "diffusers" / "pipeline", GOLDEN / "diffusers" / "variants"
CODES, TOLERANCE = CASE["config"]["num_codes"], CASE["tolerance"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "pipeline"))


def edit(file: Path, drop: tuple[str, ...] = (), **values: object) -> None:
    config = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in drop}), encoding="utf-8")


def as_of_2022(folder: Path) -> None:
    """The names, the index and the pickles that the published folder has."""
    shutil.copy(VARIANTS / "model_index_2022_form.json", folder / "model_index.json")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    pickle = "transformer_diffusion_pytorch_model.bin"
    shutil.copy(VARIANTS / pickle, folder / "transformer" / "diffusion_pytorch_model.bin")
    edit(folder / "transformer" / "config.json", drop=("norm_type", "norm_eps", "attention_type", "patch_size"))
    shutil.copy(VARIANTS / "text_encoder_2022_keys.safetensors", folder / "text_encoder" / "model.safetensors")
    old = {new: key for key, new in json.loads((VARIANTS / "vqvae_old_to_new_attention_keys.json").read_text()).items()}
    file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    codec = {old.get(key, key): value for key, value in load_file(file).items()}
    assert any(".query." in key for key in codec)
    file.unlink()
    torch.save(codec, folder / "vqvae" / "diffusion_pytorch_model.bin")
    (folder / "tokenizer" / "tokenizer.json").unlink()


def with_norm_type_of_old(folder: Path) -> None:
    edit(folder / "transformer" / "config.json", norm_type="layer_norm")


def in_half_precision(folder: Path) -> None:
    for part in ("transformer", "vqvae", NULL_FOLDER):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), folder / part / "diffusion_pytorch_model.fp16.bin")
        file.unlink()


def in_shards(folder: Path) -> None:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    names = {key: f"diffusion_pytorch_model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, file.parent / name)
    (file.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    file.unlink()


FORMS = [lambda _: None, as_of_2022, with_norm_type_of_old, in_half_precision, in_shards]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_recorded_numbers(folder: Path, form: Callable[[Path], None]) -> None:
    form(folder)
    check(read_model(folder, {}))


def test_saved_as_ours_and_loaded(folder: Path, tmp_path: Path) -> None:
    model = read_model(folder, {})
    model.save(tmp_path / "saved")
    again = Model.load(tmp_path / "saved")
    check(again)
    assert (again.card, again.schedule) == (model.card, model.schedule)


def check(model: Model) -> None:
    data = load(CASE)
    texts = CASE["config"]["prompts"]
    assert model.text_encoder is not None
    assert torch.equal(torch.tensor([model.text_encoder.ids(text) for text in texts]), data["in/ids"])  # type: ignore[union-attr]
    condition = model.text_encoder.encode(texts)
    assert torch.allclose(condition, data["exp/prompt_embeds"], rtol=0, atol=TOLERANCE["embeds_atol"])
    null = model.null(len(texts))
    assert null is not None
    assert torch.equal(null[0], data["exp/null_embeds"])
    for i, step in enumerate(data["in/timesteps"] + 1):  # they count from 0
        t = step.expand(len(texts))
        cond, uncond = (model.denoiser(data["in/x_t"], t, c).log_softmax(-1) for c in (condition, null))
        close(cond, data["exp/log_p_x0"][i], TOLERANCE["log_p_atol"])
        guided = guide(cond, uncond, 5.0)
        close(guided, data["exp/guided5"][i], TOLERANCE["guided_log_atol"])
        expected = data["exp/guided5_truncated_0.86"][i].transpose(1, 2)
        kept = truncate(guided, 0.86)
        assert torch.equal(kept.isfinite(), expected > -70)
        if step == 1:
            continue
        found = posterior_log_probs(model.schedule, guided, data["in/x_t"], t).exp()
        number = int((data["in/timesteps"][:i] > 0).sum())
        close(found, data["exp/posterior"][number].exp(), TOLERANCE["posterior_prob_atol"])
        # Theirs does not normalise what truncation left.
        mass = guided.exp().where(kept.isfinite(), 0).sum(-1, keepdim=True)
        found = posterior_log_probs(model.schedule, kept, data["in/x_t"], t).exp() * mass
        close(found, data["exp/posterior_truncated"][number].exp(), TOLERANCE["posterior_prob_atol"])
    codec = model.image_tokenizer
    assert torch.allclose(codec.decode(data["in/tokens"]), data["exp/decoded"], rtol=0, atol=TOLERANCE["decoded_atol"])
    pixels = data["in/image"] / 255
    assert torch.allclose(codec.latents(pixels), data["exp/latent"], rtol=0, atol=TOLERANCE["latent_atol"])
    assert torch.equal(codec.encode(pixels), data["exp/code_indices"])
    for letter, ours in zip(
        "abc", (model.schedule.alpha_bar, model.schedule.beta_bar, model.schedule.gamma_bar), strict=True
    ):
        theirs = data[f"exp/scheduler.log_cumprod_{letter}t"][:-1]
        assert torch.allclose(ours[1:].log().float(), theirs, rtol=1e-5)


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> None:
    assert torch.allclose(ours.transpose(1, 2), theirs, rtol=0, atol=atol)


def test_without_the_learned_embedding(folder: Path) -> None:
    shutil.rmtree(folder / NULL_FOLDER)
    model = read_model(folder, {})
    null = model.null(1)
    assert null is not None
    assert model.text_encoder is not None
    assert torch.equal(null, model.text_encoder.encode([""]))
    assert model.sampling.guidance == 1
    assert any("learned_classifier_free" in note and "missing" in note for note in model.card.notes)


def test_an_embedding_that_is_not_learned(folder: Path) -> None:
    edit(folder / NULL_FOLDER / "config.json", learnable=False)
    model = read_model(folder, {})
    assert (model.card.notes, model.card.origin["null_condition"]) == ((), "CLIP's features of the empty text")


def test_where_the_parts_came_from(folder: Path) -> None:
    model = read_model(folder, {})
    assert model.card.name == "pipeline"
    assert model.card.origin["denoiser"] == "transformer/diffusion_pytorch_model.safetensors"
    assert model.card.origin["null_condition"] == f"{NULL_FOLDER}/diffusion_pytorch_model.safetensors"
    assert model.sampling.guidance > 1


def test_shapes_only(folder: Path) -> None:
    model = read_model(folder, {}, shapes_only=True)
    parts = (model.denoiser, model.image_tokenizer, model.text_encoder.model, model.null_condition)  # type: ignore[union-attr]
    assert all(weight.is_meta for part in parts for weight in part.parameters())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5440000000\n", encoding="utf-8")


def transpose(file: Path) -> None:
    state = load_file(file)
    state["transformer_blocks.0.attn2.to_k.weight"] = state["transformer_blocks.0.attn2.to_k.weight"].T.contiguous()
    save_file(state, file)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "transformer" / WEIGHTS).unlink(), "transformer has no weights"),
        (lambda f: shutil.rmtree(f / "scheduler"), r"scheduler_config\.json is missing"),
        (lambda f: shutil.rmtree(f / "vqvae"), "vqvae has no weights"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "is not a CLIP tokenizer"),
        (lambda f: (f / "transformer" / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda f: cut(f / "transformer" / WEIGHTS), "damaged or truncated"),
        (lambda f: cut(f / "text_encoder" / "model.safetensors"), "damaged or truncated"),
        (lambda f: pointer(f / "transformer" / WEIGHTS), "git lfs pull"),
        (lambda f: transpose(f / "transformer" / WEIGHTS), r"attn2\.to_k\.weight has shape \(32, 16\), but"),
        (lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
        (lambda f: edit(f / "transformer" / "config.json", activation_fn="geglu"), "activation_fn is 'geglu'"),
        (lambda f: edit(f / "transformer" / "config.json", num_layers=3), "has 3 layers"),
        (lambda f: edit(f / "transformer" / "config.json", sample_size=None), "sample_size is None"),
        (lambda f: edit(f / "vqvae" / "config.json", num_vq_embeddings=17), "17 codes, the transformer 18"),
        (lambda f: edit(f / "vqvae" / "config.json", up_block_types=["UpDecoderBlock2D"] * 2), "fit a VQ-Diffusion"),
        (lambda f: edit(f / "vqvae" / "config.json", block_out_channels="wide"), "block_out_channels is 'wide'"),
        (lambda f: edit(f / "scheduler" / "scheduler_config.json", num_vec_classes=9), "100 steps and 9 classes"),
        (lambda f: edit(f / "scheduler" / "scheduler_config.json", alpha_cum_end=2.0), "alpha_bar"),
        (lambda f: (f / "denoiser").mkdir(), "several formats at once: a model folder, a diffusers folder"),
        (lambda f: (f / "ithq.pth").touch(), r"several formats at once: a diffusers folder, the checkpoint ithq\.pth"),
    ],
)  # fmt: skip
def test_broken_folders(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=words) as error:
        read_model(folder, {})
    assert len(str(error.value).splitlines()) == 1
