"""Prompts to pictures with the bundled model; few steps, since how good they are is not at stake here."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vqdiff
from bundled_model import bundled_pipeline
from toy_pipelines import toy_pipeline
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.html import table
from vqdiff.foundation.processor import has_bf16_units, processor
from vqdiff.metrics import psnr
from vqdiff.model import Model
from vqdiff.model.devices import pick_device
from vqdiff.model.finding import bundled
from vqdiff.pipeline import Pipeline
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling import Guidance, Reveal, sample
from vqdiff.sampling.step import StepInput

needs_int8 = pytest.mark.skipif(processor().int8 is None, reason="needs a CPU with VNNI")
needs_bf16 = pytest.mark.skipif(not has_bf16_units(torch.device("cpu")), reason="bfloat16 is slow here")


def test_the_contract(pipe: Pipeline, tmp_path: Path) -> None:
    images = pipe("a red apple", num_images=2, steps=3, guidance=3.0, sampler="purity", seed=0)
    assert [image.size for image in images] == [(128, 128)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    pipe.save(tmp_path / "copy")
    again = vqdiff.load(tmp_path / "copy", device="cpu")("a red apple", steps=3, guidance=3.0, seed=1)
    assert again[0].tobytes() == images[1].tobytes()
    assert all(isinstance(line, str) for line in vqdiff.samplers().values())


def test_a_preset_is_settings_by_name(pipe: Pipeline) -> None:
    steps = pipe.model.preset("fast").steps
    assert steps < pipe.model.sampling.steps
    assert pipe.model.preset("best").best_of > pipe.model.sampling.best_of
    images = [
        pipe("a cat", preset="fast", truncation=0.8),
        pipe("a cat", **pipe.model.own_presets["fast"], truncation=0.8),
    ]
    assert images[0][0].tobytes() == images[1][0].tobytes()
    assert [frame.steps for frame in pipe.stream("a cat", preset="fast", steps=2)] == [2, 2]


def test_a_seed_belongs_to_a_picture(pipe: Pipeline) -> None:
    prompts = ["a red apple", "a cat", "a house"]
    together = pipe(prompts, steps=4, seed=7)
    by_two = pipe(prompts, steps=4, seed=7, batch_size=2)
    alone = [pipe(prompt, steps=4, seed=7 + i)[0] for i, prompt in enumerate(prompts)]
    for images in (by_two, alone):
        assert [a.tobytes() for a in images] == [b.tobytes() for b in together]


@pytest.mark.parametrize("sampler", sorted(vqdiff.samplers()))
def test_every_sampler_finishes_the_picture(pipe: Pipeline, sampler: str) -> None:
    settings = pipe.settings(sampler=sampler, steps=5)
    frames = list(pipe.frames(["a cat"], [0], settings))
    assert frames[-1].step == frames[-1].steps
    assert int(frames[-1].tokens.max()) < pipe.model.schedule.num_codes


@pytest.mark.numeric
def test_stream_ends_with_the_picture(pipe: Pipeline) -> None:
    previews = list(pipe.stream("a cat", seed=3, steps=4))
    assert [(one.step, one.steps) for one in previews] == [(i, 4) for i in range(1, 5)]
    assert previews[-1].image.tobytes() == pipe("a cat", seed=3, steps=4)[0].tobytes()
    assert previews[0].confidence.shape == (16, 16)
    hidden = (np.asarray(previews[0].image) == 230).all(-1).mean()
    assert hidden == pytest.approx(0.75, abs=0.03)  # three quarters of the patches are still to come


def test_progress_is_reported(pipe: Pipeline) -> None:
    told = list[tuple[int, int]]()
    pipe("a cat", num_images=3, steps=2, batch_size=2, on_step=lambda done, total: told.append((done, total)))
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_guidance_and_text_have_a_say(pipe: Pipeline) -> None:
    apple, unguided = pipe("a red apple", steps=4)[0], pipe("a red apple", steps=4, guidance=1.0)[0]
    tree = pipe("a green tree", steps=4)[0]
    assert len({image.tobytes() for image in (apple, unguided, tree)}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe(""), "empty"),
        (lambda pipe: pipe("  "), "empty"),
        (lambda pipe: pipe([]), "no prompt"),
        (lambda pipe: pipe("word " * 40), "limit is 30"),
        (lambda pipe: pipe("cat", steps=0), "steps"),
        (lambda pipe: pipe("cat", steps=257), "256"),
        (lambda pipe: pipe("cat", guidance=float("nan")), "guidance"),
        (lambda pipe: pipe("cat", sampler="purify"), "purity"),
        (lambda pipe: pipe("cat", truncation=0.0), "truncation"),
        (lambda pipe: pipe("cat", preset="bets"), "did you mean 'best'"),
    ],
)
def test_mistakes_are_named(pipe: Pipeline, call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(pipe)  # type: ignore[operator]


def test_unknown_models_and_devices() -> None:
    with pytest.raises(InputError, match="did you mean 'emoji'"):
        vqdiff.load("emoij")
    for device in ("cuda:99", "toaster"):
        with pytest.raises(InputError, match="not there"):
            pick_device(device)


@pytest.fixture(scope="module")
def exact() -> Pipeline:
    return bundled_pipeline("float32")


@needs_bf16
@pytest.mark.numeric
@torch.inference_mode()
def test_the_decoder_in_bfloat16_is_within_a_grey_level(exact: Pipeline) -> None:
    decode = bundled_pipeline("bfloat16").model.image_tokenizer.decode
    *_, last = exact.frames(["a red apple"], [0], exact.settings(steps=8))
    pixels, rough = exact.model.image_tokenizer.decode(last.tokens), decode(last.tokens)
    assert psnr(rough, pixels).item() > 55
    assert pixels.dtype == rough.dtype == torch.float32


@needs_int8
@pytest.mark.numeric
@torch.inference_mode()
def test_int8_is_almost_as_sure_of_the_same(exact: Pipeline) -> None:
    rough = bundled_pipeline("int8")
    tokens, t = torch.full((1, exact.model.num_tokens), exact.model.schedule.num_codes), torch.tensor([100])
    condition = exact.model.encode(["a red apple"])
    wanted, found = (pipe.model.denoiser(tokens, t, condition).float().log_softmax(-1) for pipe in (exact, rough))
    assert 0 < (wanted.exp() * (wanted - found)).sum(-1).mean() < 0.005


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=needs_int8)])
def test_saving_gives_what_was_read(precision: Precision, tmp_path: Path) -> None:
    source = bundled()["emoji"]
    pipe = vqdiff.load(source, device="cpu", precision=precision)
    pipe.model.card.name = "renamed"
    pipe.save(tmp_path / "copy")
    found, wanted = Model.load(tmp_path / "copy"), Model.load(source)
    assert found.card.name == "renamed"
    for part in ("denoiser", "image_tokenizer", "null_condition"):
        weights = getattr(found, part).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in getattr(wanted, part).state_dict().items())


@pytest.mark.numeric
@pytest.mark.parametrize(
    "precision",
    ["float32", pytest.param("bfloat16", marks=needs_bf16), pytest.param("int8", marks=needs_int8)],
)
def test_a_picture_is_the_same_in_any_batch(precision: Precision) -> None:
    pipe = bundled_pipeline(precision)
    asked: list[tuple[Any, Any]] = [
        (["a red apple", "a cat"], {"num_images": 4, "steps": 2}),
        ("a tree", {"num_images": 5, "guidance": 1.0, "steps": 4}),
    ]
    for prompts, settings in asked:
        alone = [image.tobytes() for image in pipe(prompts, batch_size=1, **settings)]
        for batch_size in (3, 8):  # of 8 images and of 5: batches of 2, 3, 5 and 8
            assert [image.tobytes() for image in pipe(prompts, batch_size=batch_size, **settings)] == alone


def test_copies_draw_the_same(pipe: Pipeline) -> None:
    wanted = pipe("a red apple", steps=2)[0].tobytes()
    for twin in (copy.copy(pipe), copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert twin("a red apple", steps=2)[0].tobytes() == wanted


def test_a_copy_can_still_be_saved(pipe: Pipeline, tmp_path: Path) -> None:
    for name, one in (("first", pipe), ("twin", pickle.loads(pickle.dumps(pipe)))):
        one.save(tmp_path / name)
    assert Model.load(tmp_path / "twin").fingerprint == Model.load(tmp_path / "first").fingerprint


@pytest.mark.gpu
def test_cuda_draws_the_same_in_any_batch_on_request() -> None:
    pipe = vqdiff.load("emoji", device="cuda", batch_invariant=True)
    prompts = ["a red apple", "a cat", "a tree"]
    alone, together = (pipe(prompts, num_images=3, batch_size=size) for size in (1, 8))
    assert [image.tobytes() for image in alone] == [image.tobytes() for image in together]


@pytest.mark.gpu
def test_cuda_draws_the_same_tokens_in_float32() -> None:
    tokens = list[torch.Tensor]()
    for device in ("cpu", "cuda"):
        pipe = vqdiff.load("emoji", device=device, precision="float32")
        *_, last = pipe.frames(["a red apple"], [0], pipe.settings(steps=8))
        tokens.append(last.tokens.cpu())
    assert (tokens[0] == tokens[1]).float().mean() > 0.9


@dataclass(frozen=True)
class _Lazy(Reveal):
    """Reveals nothing."""

    def step(self, x: StepInput) -> Tensor:
        return x.tokens


def test_a_sampler_that_leaves_tokens_masked_is_named() -> None:
    pipe = toy_pipeline("unconditional")
    SAMPLERS.register("lazy", _Lazy())
    try:
        with pytest.raises(InputError, match="the sampler 'lazy' has left 64 of 64 tokens masked"):
            pipe(sampler="lazy")
        with pytest.raises(InputError, match="'lazy'"):
            list(pipe.stream(sampler="lazy"))
    finally:
        vars(SAMPLERS)["_things"].pop("lazy")


# --- in notebooks and consoles ----------------------------------------------------------------------------------------


def test_a_pipeline_shows_what_it_is(pipe: Pipeline) -> None:
    for shown in (repr(pipe), pipe._repr_html_()):
        for fact in ("emoji", pipe.model.fingerprint, "128 × 128 pixels", "text → image", "cpu"):
            assert fact in shown


def test_html_of_settings_names_every_setting_and_is_escaped(pipe: Pipeline) -> None:
    settings = pipe.settings(steps=7)
    assert '<th scope="row">steps</th><td>7</td>' in settings._repr_html_()
    assert all(f">{name}<" in settings._repr_html_() for name in vars(settings))
    assert (
        table("<b>", [("&", "<")])
        == '<table><caption>&lt;b&gt;</caption><tr><th scope="row">&amp;</th><td>&lt;</td></tr></table>'
    )


def test_a_mixed_batch_has_the_tokens_of_its_images_alone() -> None:
    """Guided always, in the first half, in the second and never: 4 images, and 2 rows more in each step."""
    pipe = bundled_pipeline("float32")
    asked = [
        pipe.settings(steps=2, guidance=Guidance(3.0, interval=part)) for part in ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))
    ]
    asked.append(pipe.settings(steps=2, guidance=1.0))
    model, seeds = pipe.model, [1, 2, 3, 4]
    prompts = ["a cat", "a red apple", "a house", "a tree"]

    def tokens(rows: list[int]) -> Tensor:
        condition, null = model.encode([prompts[row] for row in rows]), model.null(len(rows))
        frames = sample(
            model.bind(condition, null), model.schedule, num_tokens=model.num_tokens,
            seeds=[seeds[row] for row in rows], settings=[asked[row] for row in rows],
        )  # fmt: skip
        *_, last = frames
        return last.tokens

    together = tokens([0, 1, 2, 3])
    for row in range(4):
        assert (tokens([row])[0] == together[row]).all()
