"""Whole checkpoints in the published layouts: every part found, numbers equal to the original's, damage refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_cases import GOLDEN, Case, cases, load
from vqdiff.checkpoints import read_model
from vqdiff.checkpoints.archive import read_weights
from vqdiff.checkpoints.clip import read_clip
from vqdiff.checkpoints.microsoft import Extras, read_schedule
from vqdiff.checkpoints.presets import ARCHITECTURES, architecture
from vqdiff.diffusion import posterior_log_probs
from vqdiff.foundation.errors import InputError
from vqdiff.model import Model
from vqdiff.presets import PUBLISHED
from vqdiff.sampling import samplers
from vqdiff.text import NullCondition

pytestmark = pytest.mark.numeric

FOLDER = GOLDEN / "checkpoints"


def read(case: Case) -> Model:
    config = case["config"]
    extras: Extras = {}
    if "codec_file" in config:
        extras["image_tokenizer"] = GOLDEN / config["codec_file"]
    if config.get("codec_in_checkpoint") and "mapping_file" in config:
        extras["code_map"] = GOLDEN / config["mapping_file"]
    if "original_config" not in config:  # no .yaml beside it to tell
        extras |= {"heads": config["heads"], "grid_size": config["grid"][0]}
        if "null_label" in config:
            extras["null_class"] = True
    return read_model(GOLDEN / config["checkpoint"], extras)


def log_p0(model: Model, data: dict[str, Tensor], condition: Tensor | None) -> Tensor:
    return model.denoiser(data["in/x_t"], data["in/t"] + 1, condition).log_softmax(-1).transpose(1, 2)


@pytest.mark.parametrize("case", cases("checkpoint"), ids=lambda case: case["case"])
def test_checkpoints(case: Case, tmp_path: Path) -> None:
    data, tolerance = load(case), case["tolerance"]
    model = read(case)
    codes = model.schedule.num_codes
    condition, atol = data.get("in/label"), tolerance["log_p_atol"]
    if model.text_encoder is not None:
        condition, atol = model.text_encoder.encode_ids(data["in/ids"]), tolerance["log_p_from_ids_atol"]
        assert torch.allclose(condition[:2], data["exp/cond"], rtol=0, atol=tolerance["cond_atol"])
    found = log_p0(model, data, condition)
    assert torch.allclose(found, data["exp/log_p_x0"][:, :codes], rtol=0, atol=atol)
    for null in ("exp/log_p_x0_null", "exp/log_p_x0_zero_shot_null"):
        if null in data:
            expected = data[null][:, :codes]
            assert torch.allclose(log_p0(model, data, model.null(len(expected))), expected, rtol=0, atol=atol)
            break
    if "exp/decoded" in data:
        decoded = model.image_tokenizer.decode(data["in/tokens"]) * 255
        assert torch.allclose(decoded, data["exp/decoded"], rtol=0, atol=tolerance["decoded_atol"])
    model.save(tmp_path / "saved")
    again = Model.load(tmp_path / "saved")
    assert torch.equal(log_p0(again, data, condition), found)
    assert (again.card.origin, again.card.notes) == (model.card.origin, model.card.notes)


def test_the_old_schedule_is_kept_and_noted() -> None:
    case = next(case for case in cases("checkpoint") if case["case"] == "checkpoint_old_schedule")
    model, data = read(case), load(case)
    log_p = log_p0(model, data, None).transpose(1, 2)
    found = posterior_log_probs(model.schedule, log_p, data["in/x_t"], data["in/t"] + 1).transpose(1, 2).exp()
    expected = data["exp/posterior_checkpoint_buffers"].exp()
    assert torch.allclose(found, expected, rtol=0, atol=case["tolerance"]["posterior_prob_atol"])
    assert any("April 2022" in note and "kept" in note for note in model.card.notes)


def test_a_schedule_that_is_no_line() -> None:
    state = torch.load(FOLDER / "unconditional.pth", weights_only=True)["model"]
    state["transformer.log_cumprod_at"][50] -= 0.1
    with pytest.raises(InputError, match="is not linear"):
        read_schedule(state, 100, 30)


def test_clip_tower() -> None:
    data = load("clip_text_tower")
    encoder = read_clip(data, "sd/")
    assert torch.allclose(encoder.encode_ids(data["in/ids"]), data["exp/hidden_fp32"], rtol=0, atol=2e-6)


def test_without_its_codec_a_model_denoises_and_names_the_file() -> None:
    model = read_model(FOLDER / "text_base.pth", {})
    logits = model.denoiser(torch.full((1, 64), 22), torch.tensor([100]), model.null(1))
    assert logits.shape == (1, 64, 22)
    with pytest.raises(InputError, match=r"image_tokenizer=openimages_like_gumbel\.pth"):
        model.image_tokenizer.decode(torch.zeros(1, 64, dtype=torch.int64))


def test_the_grid_of_a_text_model_without_its_masks_is_not_guessed(tmp_path: Path) -> None:
    state = read_weights(FOLDER / "text_learnable_null.pth")["ema"]
    torch.save({"ema": {k: v for k, v in state.items() if "attn2.mask" not in k}, "model": {}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="pass grid_size"):
        read_model(tmp_path / "x.pth", {"heads": 2})
    assert read_model(tmp_path / "x.pth", {"heads": 2, "grid_size": 8}).num_tokens == 64


def test_the_codec_of_another_model() -> None:
    with pytest.raises(InputError, match="has 40 codes, but the denoiser has 22"):
        read_model(FOLDER / "text_base.pth", {"image_tokenizer": GOLDEN / "codecs" / "ithq_like_vqvae.pth"})


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("truncated", "truncated"),
        ("corrupt_pickle", "checksum"),
        ("corrupt_tensor_bytes", "checksum"),
        ("empty", "is empty"),
        ("not_a_checkpoint", "not a weight file"),
        ("missing_key", r"transformer\.transformer\.blocks\.0\.attn\.query\.weight is missing"),
        ("wrong_shape", r"transformer\.transformer\.blocks\.0\.attn\.query\.weight has shape \(8, 9\)"),
        ("nan_weights", "is not finite"),
    ],
)
def test_broken_files(file: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_model(FOLDER / "broken" / f"{file}.pth", {"heads": 2, "grid_size": 3})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("file", "expected"), [("intact_reference", "intact"), ("no_ema", "no_ema")])
def test_intact_files(file: str, expected: str) -> None:
    data = load("checkpoint_broken_files")
    model = read_model(FOLDER / "broken" / f"{file}.pth", {"heads": 2, "grid_size": 3})
    expected_log_p = data[f"exp/log_p_x0_{expected}"][:, :9]
    assert torch.allclose(log_p0(model, data, None), expected_log_p, rtol=0, atol=2e-4)
    assert any("no averaged weights" in note for note in model.card.notes) == (file == "no_ema")


@pytest.mark.parametrize("file", sorted((FOLDER / "malicious").iterdir()), ids=lambda file: file.name)
def test_files_that_would_run_code(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        read_model(file, {})
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ithq", 1_359_274_624),
        ("coco", 388_780_871),
        ("cub200", 388_780_871),
        ("cc", 388_780_871),
        ("imagenet", 518_025_678),
        ("ffhq", 411_185_664),
    ],
)
def test_published_architectures(name: str, parameters: int) -> None:
    model = architecture(name).build("meta")
    assert sum(one.numel() for one in model.denoiser.parameters()) == parameters
    assert model.image_tokenizer.grid_size == model.denoiser.config.grid_size
    assert model.image_tokenizer.num_codes == model.denoiser.config.num_codes
    assert {"ithq", "coco", "cub200", "cc", "imagenet", "ffhq"} == set(ARCHITECTURES)


def test_the_pages_name_every_recipe() -> None:
    page = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text("utf-8")
    assert {
        name for name in re.findall(r"`([a-z-]+)`", page) if name.split("-")[0] in ARCHITECTURES
    } == PUBLISHED.keys()
    assert all(sampler in samplers() for sampler in re.findall(r'sampler="([a-z-]+)"', page))


def test_a_null_condition_without_learning() -> None:
    """What the pages give for the original's `learnable_cf=False`."""
    case = next(case for case in cases("checkpoint") if case["case"] == "checkpoint_text_learnable_null")
    model, data = read(case), load(case)
    encoder = model.text_encoder
    assert encoder is not None
    empty = encoder.encode([""])
    model.null_condition = NullCondition.of("empty", encoder)
    assert torch.equal(model.null(1), empty)  # type: ignore[arg-type]
    expected = data["exp/log_p_x0_zero_shot_null"][:, : model.schedule.num_codes]
    found = log_p0(model, data, model.null(len(expected)))
    assert torch.allclose(found, expected, rtol=0, atol=case["tolerance"]["log_p_from_ids_atol"])
