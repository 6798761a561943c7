"""Both stages on a few committed drawings: they run, learn, and leave a model that draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vqdiff
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactTokenizer
from vqdiff.model import Card, Model, load_component, save_component
from vqdiff.training import diffusion, tokenizer

SAMPLE = Path(__file__).parents[1] / "fixtures" / "emoji-sample"
TEXT_ENCODER = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"

TOKENIZER = """
data = "OUT/data"
held_out = "test"
output = "OUT/tokenizer"
evaluate = 4
[model]
channels = [8, 16, 16]
encoder_blocks = [0, 0, 0]
decoder_blocks = [0, 0, 0]
num_codes = 16
code_dim = 4
[run]
steps = 30
batch_size = 4
learning_rate = 3e-3
warmup = 5
log_every = 10
preview_every = 30
"""

DIFFUSION = f"""
data = "OUT/data"
output = "OUT/diffusion"
image_tokenizer = "OUT/tokenizer/image_tokenizer"
text_encoder = "{TEXT_ENCODER}"
prompts = ["a red apple"]
evaluate = 4
compile = false
[model]
width = 32
depth = 1
heads = 2
token_width = 16
[sampling]
steps = 2
[run]
steps = 30
batch_size = 4
learning_rate = 3e-3
warmup = 5
ema = 0.9
log_every = 10
preview_every = 30
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text.replace("OUT", str(folder)))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    shutil.copytree(SAMPLE, folder / "data")
    tokenizer.train_tokenizer(read_config(tokenizer.TokenizerTraining, write(folder, TOKENIZER)))
    diffusion.train_diffusion(read_config(diffusion.DiffusionTraining, write(folder, DIFFUSION)))
    return folder


def losses(folder: Path) -> list[float]:
    return [r["loss"] for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "loss" in r]


def test_both_stages_learn_and_leave_pictures(trained: Path) -> None:
    for stage in ("tokenizer", "diffusion"):
        first, *_, last = losses(trained / stage)
        assert last < first
        assert (trained / stage / "preview-0000030.png").stat().st_size > 1000


def test_the_trained_model_draws(trained: Path) -> None:
    (image,) = vqdiff.load(trained / "diffusion" / "model")("cat", steps=3)
    assert image.size == (128, 128)


GUIDANCE = """
start = "OUT/diffusion/model"
data = "OUT/data"
output = "OUT/guidance"
evaluate = 4
compile = false
[run]
steps = 3
batch_size = 4
learning_rate = 1e-3
"""


def guidance(folder: Path, *changes: str) -> diffusion.GuidanceTraining:
    return read_config(diffusion.GuidanceTraining, write(folder, GUIDANCE), changes)


def denoisers(*folders: Path) -> list[dict[str, torch.Tensor]]:
    return [Model.load(folder).denoiser.state_dict() for folder in folders]


def test_a_trained_model_gains_a_null_condition(trained: Path) -> None:
    diffusion.train_diffusion(guidance(trained, "freeze=true"))
    before, after = denoisers(trained / "diffusion" / "model", trained / "guidance" / "model")
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    first, tuned = (vqdiff.load(trained / stage / "model") for stage in ("diffusion", "guidance"))
    assert not torch.allclose(first.model.null(1), tuned.model.null(1), atol=1e-3)
    assert tuned.model.sampling == first.model.sampling
    assert len(tuned("cat", steps=2, guidance=3.0)) == 1
    assert (tuned.model.card.name, tuned.model.card.trained_on) == ("unnamed", str(trained / "data"))


def test_fine_tuning_to_the_empty_caption(trained: Path) -> None:
    diffusion.train_diffusion(guidance(trained, "null=empty", f"output={trained / 'empty'}"))
    before, after = denoisers(trained / "diffusion" / "model", trained / "empty" / "model")
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    model = vqdiff.load(trained / "empty" / "model").model
    assert model.text_encoder is not None
    torch.testing.assert_close(model.null(1), model.text_encoder.encode([""]), atol=2e-3, rtol=1e-2)


def go_on(folder: Path, *changes: str) -> diffusion.DiffusionTraining:
    changes = (f"output={folder / 'further'}", *changes)
    return read_config(diffusion.DiffusionTraining, write(folder, GUIDANCE), changes)


def test_a_trained_model_is_trained_further(trained: Path) -> None:
    diffusion.train_diffusion(go_on(trained, "run.warmup=1", "sampling.steps=7"))
    before, after = denoisers(trained / "diffusion" / "model", trained / "further" / "model")
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=5e-3, rtol=1e-2)  # near: it did not start again
    first, further = (vqdiff.load(trained / stage / "model").model for stage in ("diffusion", "further"))
    torch.testing.assert_close(further.null(1), first.null(1), atol=5e-3, rtol=1e-2)
    assert further.sampling.steps == 7
    assert further.card.name == first.card.name == "unnamed"
    assert further.card.trained_on == str(trained / "data")


def test_a_model_trained_further_says_what_both_were_trained_on(trained: Path) -> None:
    base = Model.load(trained / "diffusion" / "model")
    licenses = {"weights": "MIT", "drawings": "CC-BY-4.0"}
    start = trained / "carded"
    replace(base, card=Card("base", licenses, "drawings", {"psnr": 1.0}, {"denoiser": "a file"}, ("old",))).save(start)
    changes = [f"start={start}", "card.name=mine", "card.licenses.photos=CC0"]
    card = diffusion.DiffusionTask(go_on(trained, *changes, "card.trained_on=photos")).parts.card
    assert (card.name, card.trained_on) == ("mine", "photos; before that: drawings")
    assert card.licenses == licenses | {"photos": "CC0"}
    assert (card.origin, card.notes, card.quality) == ({"denoiser": "a file"}, ("old",), {})
    card = diffusion.DiffusionTask(go_on(trained, *changes, "card.trained_on=drawings")).parts.card
    assert card.trained_on == "drawings"  # the same once more
    card = diffusion.DiffusionTask(go_on(trained, f"start={start}")).parts.card
    assert (card.name, card.trained_on) == ("base, trained further", f"{trained / 'data'}; before that: drawings")


def test_a_trained_model_is_sane_where_it_gets_no_worse(trained: Path) -> None:
    diffusion.train_diffusion(guidance(trained, "freeze=true", f"output={trained / 'sane'}"), sanity=True)
    assert not (trained / "sane" / "last.pt").exists()
    with pytest.raises(InputError, match="a run would not learn either"):
        diffusion.train_diffusion(go_on(trained, "run.learning_rate=30.0"), sanity=True)


def test_what_a_trained_model_brings_is_not_described_again(trained: Path) -> None:
    with pytest.raises(InputError, match="leave that out"):
        go_on(trained, "model.width=64")
    with pytest.raises(InputError, match="image_tokenizer"):
        read_config(diffusion.DiffusionTraining, write(trained, GUIDANCE.split("\n", 2)[2]))


def test_captions_are_not_dropped_for_a_null_condition_that_is_not_there(trained: Path) -> None:
    model = Model.load(trained / "diffusion" / "model")
    replace(model, null_condition=None).save(trained / "unguided")
    start = f"start={trained / 'unguided'}"
    with pytest.raises(InputError, match="set drop = 0"):
        diffusion.DiffusionTask(go_on(trained, start))
    diffusion.DiffusionTask(go_on(trained, start, "drop=0.0"))


def test_a_tokenizer_to_go_on_from_brings_its_sizes(trained: Path) -> None:
    further = [f"start={trained / 'tokenizer' / 'image_tokenizer'}", "model.num_codes=32"]
    config = read_config(tokenizer.TokenizerTraining, write(trained, TOKENIZER), further)
    with pytest.raises(InputError, match="leave out model"):
        config.tokenizer()


def test_nothing_to_train_is_refused(trained: Path) -> None:
    with pytest.raises(InputError, match="freeze leaves nothing to train"):
        diffusion.DiffusionTask(guidance(trained, "freeze=true", "null=empty"))


def test_the_null_condition_is_trained(trained: Path) -> None:
    model = vqdiff.load(trained / "diffusion" / "model").model
    assert model.null_condition is not None
    torch.manual_seed(0)
    untrained = type(model.null_condition)(model.null_condition.config)
    assert not torch.allclose(model.null(1), untrained(1), atol=1e-3)


def test_components_round_trip(trained: Path, tmp_path: Path) -> None:
    pixels = torch.rand(4, 3, 32, 32)
    for folder in (trained / "tokenizer" / "image_tokenizer", trained / "diffusion" / "model" / "denoiser"):
        first = load_component(folder)
        save_component(first, tmp_path / folder.name)
        again = load_component(tmp_path / folder.name)
        assert type(again) is type(first)
        assert again.config == first.config
        torch.testing.assert_close(again.state_dict(), first.state_dict(), rtol=0, atol=0)
        if isinstance(first, CompactTokenizer):
            size = first.config.image_size
            tokens = first.encode(torch.nn.functional.interpolate(pixels, (size, size)))
            assert len(tokens.unique()) > 1
            assert torch.equal(again.decode(tokens), first.decode(tokens))
