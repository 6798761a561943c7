"""What guides lead away from in networks: a weaker denoiser of the model's folder, or the same without some layers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from toy_pipelines import CLASSES, CODES, TIMES, generate, text_pipeline, toy_pipeline
from vqdiff import running
from vqdiff.cli import main
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.denoisers.packed import is_packed, pack, precision_of
from vqdiff.diffusion import Schedule, guide
from vqdiff.explanation import explain
from vqdiff.foundation.errors import InputError
from vqdiff.interfaces import Denoiser
from vqdiff.model import Model
from vqdiff.pipeline import Pipeline, load
from vqdiff.requests import EditRequest
from vqdiff.sampling import agreement, run
from vqdiff.serving.engine import Engine

NAMES = ("null", "weaker", "skipped-layers", "null-then-weaker", "null-then-skipped-layers")


def modern(depth: int, seed: int, width: int = 16, **given: Any) -> ModernDenoiser:
    torch.manual_seed(seed)
    denoiser = ModernDenoiser(ModernConfig(CODES, TIMES, 8, width, depth, 2, token_width=24, **given))
    for weight in denoiser.parameters():
        weight.data.normal_(0, 0.4)
    return denoiser.eval().requires_grad_(False)


def with_weaker(kind: str = "modern") -> Pipeline:
    """A model of three layers, modern or packed, with a weaker one of one layer."""
    given: dict[str, Any] = {} if kind == "unconditional" else {"num_classes": CLASSES}
    pair = [modern(3, 1, **given), modern(1, 2, width=24, **given)]
    if kind == "packed":
        pair = [pack(one) for one in pair]  # type: ignore[misc]
    return Pipeline(replace(toy_pipeline(kind).model, denoiser=pair[0], weaker_denoiser=pair[1]))


def tokens(pipe: Pipeline, prompts: Any = None, **given: Any) -> torch.Tensor:
    return running.tokens(pipe.model, generate(pipe.model, prompts, **given))


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "left"), [(3, (0, 2)), (4, (0, 3)), (5, (0, 1, 3, 4))])
def test_without_its_middle_layers_a_network_is_that_of_the_other_layers(depth: int, left: tuple[int, ...]) -> None:
    whole = modern(depth, 0, text_width=6)
    smaller = modern(len(left), 1, text_width=6)
    state = {name: value for name, value in whole.state_dict().items() if not name.startswith("blocks.")}
    for new, old in enumerate(left):
        state |= {f"blocks.{new}.{name}": value for name, value in whole.blocks[old].state_dict().items()}
    rows = state["text_keys_values.weight"].unflatten(0, (2, depth, -1))  # the keys of all layers, then the values
    state["text_keys_values.weight"] = rows[:, list(left)].flatten(0, 2)
    smaller.load_state_dict(state)
    noisy, t, text = torch.randint(0, CODES + 1, (2, 64)), torch.tensor([3, 8]), torch.randn(2, 5, 6)
    wanted = smaller(noisy, t, text)
    found = whole.skipping_layers()
    assert found is not None
    assert not torch.allclose(whole(noisy, t, text), wanted, atol=1e-2)
    torch.testing.assert_close(found(noisy, t, whole.prepare(text)), wanted)
    packed = pack(copy.deepcopy(whole)).skipping_layers()  # type: ignore[attr-defined]
    torch.testing.assert_close(packed(noisy, t, packed.prepare(text)), wanted, atol=1e-3, rtol=1e-3)
    assert whole.skipped == ()
    assert modern(2, 0).skipping_layers() is None


@pytest.mark.parametrize("name", ["weaker", "skipped-layers"])
def test_guided_predictions_are_those_of_both_networks(name: str) -> None:
    pipe = with_weaker()
    model, job = pipe.model, generate(pipe.model, [1, 3], guidance=2.5, guide=name)
    batch, labels = job.start(model), torch.tensor([1, 3])
    seen = batch.tokens
    reference: Denoiser = model.weaker_denoiser if name == "weaker" else model.denoiser.skipping_layers()  # type: ignore[assignment, attr-defined]
    for frame in run(batch, job.bind(model)):
        good, bad = (one(seen, batch.plan.t[:, frame.step - 1], labels) for one in (model.denoiser, reference))
        torch.testing.assert_close(frame.prediction.at(), guide(good, bad, 2.5), atol=1e-4, rtol=1e-4)
        seen = frame.tokens


@pytest.mark.parametrize("kind", ["modern", "packed", "unconditional"])
def test_alone_and_beside_other_guides_a_seed_gives_the_same_image(kind: str) -> None:
    """In a batch, and in an engine where each joins while others are under way."""
    pipe = with_weaker(kind)
    label = None if kind == "unconditional" else 1
    given: list[dict[str, Any]] = [{"guide": name, "guidance": 3.0} for name in NAMES] + [{"guidance": 1.0}]
    given += [{"guide": "weaker", "guidance": 2.0, **more} for more in ({"best_of": 2}, {"guidance_threshold": 0.4})]
    jobs = [
        generate(pipe.model, label, num_images=1 + row % 2, seed=7, steps=5, **one) for row, one in enumerate(given)
    ]
    alone = [running.tokens(pipe.model, job) for job in jobs]
    # From ∅ to ∅, there is no guidance.
    assert len({one[0].numpy().tobytes() for one in alone[:6]}) == (5 if label is None else 6)
    for job, wanted in zip(jobs, alone, strict=True):
        parts = torch.cat([running.tokens(pipe.model, part) for part in job.parts(1)])
        assert torch.equal(parts, wanted)
    engine = Engine(max_rows=5)
    try:
        tickets = [engine.submit(pipe, job) for job in jobs]
        for ticket, wanted in zip(tickets, alone, strict=True):
            assert torch.equal(ticket.result(60).tokens, wanted)
    finally:
        engine.stop(drain=False)


def test_away_from_itself_nothing_changes() -> None:
    pipe = with_weaker()
    pipe.model.weaker_denoiser = copy.deepcopy(pipe.model.denoiser)
    plain = tokens(pipe, [1, 2], guidance=1.0)
    assert torch.equal(tokens(pipe, [1, 2], guidance=3.0, guide="weaker"), plain)
    assert not torch.equal(tokens(with_weaker(), [1, 2], guidance=3.0, guide="weaker"), plain)


def test_edits_are_guided_too_also_without_a_prompt() -> None:
    pipe = with_weaker()
    image, mask = Image.effect_noise((32, 32), 60).convert("RGB"), Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    settings = pipe.settings(guidance=3.0, guide="weaker")
    white = EditRequest(image=image, mask=Image.new("L", (32, 32), 255), prompt=1, seed=3, settings=settings)
    assert torch.equal(
        running.tokens(pipe.model, white.job(pipe.model)), tokens(pipe, 1, seed=3, guidance=3.0, guide="weaker")
    )
    for prompt in (1, None):
        found = {name: pipe.edit(image, mask, prompt, seed=3, guidance=3.0, guide=name) for name in ("null", "weaker")}
        plain = pipe.edit(image, mask, prompt, seed=3, guidance=1.0)
        assert all(one.crop((16, 0, 32, 32)) == image.crop((16, 0, 32, 32)) for one in found.values())
        assert found["weaker"] != plain
        assert (found["null"] == plain) == (prompt is None)
    for drawn in (pipe.vary(image, 0.6, 1, guide="skipped-layers"), [pipe.revise(image, 0.4, 1, guide="weaker")]):
        assert drawn[0].size == image.size


def test_candidates_are_ranked_by_the_null_condition_whatever_guides_them() -> None:
    pipe = with_weaker()
    job = generate(pipe.model, 1, guide="weaker", guidance=2.0, best_of=3, ranking="text")
    model, (condition, null) = pipe.model, job.encode(pipe.model)
    assert null is not None
    *_, last = run(job.start(model), job.bind(model))
    bound = model.bind(condition.expand(3), null.expand(3))  # type: ignore[union-attr]
    scores = agreement(bound, model.schedule, last.tokens)
    assert torch.equal(running.tokens(pipe.model, job)[0], last.tokens[scores.index(max(scores))])


def test_text_weights_and_negative_prompts() -> None:
    """The weaker network gets the same weighted features; a negative prompt takes the place of null alone."""
    pipe = text_pipeline()
    width = pipe.model.text_encoder.width  # type: ignore[union-attr]
    pipe.model.weaker_denoiser = modern(1, 2, width=24, text_width=width)
    given: dict[str, Any] = {"guidance": 2.0, "seed": 3}
    for name in ("weaker", "null-then-weaker"):
        images = [tokens(pipe, text, guide=name, **given) for text in ("a red apple", "a (red:3) apple")]
        assert not torch.equal(*images)
    plain, changed = (tokens(pipe, "cat", guide="null-then-weaker", negative=one, **given) for one in (None, "red"))
    assert not torch.equal(plain, changed)
    with pytest.raises(
        InputError, match=r"takes the place of the null condition.* the guide weaker: use the guide null"
    ):
        tokens(pipe, "cat", guide="weaker", negative="red", **given)


def test_mistakes_name_the_guide() -> None:
    pipe = toy_pipeline()
    for name in ("weaker", "null-then-weaker"):
        with pytest.raises(
            InputError, match=f"guide is {name}, and this model has no weaker denoiser: add one"
        ) as error:
            pipe(1, guide=name, guidance=2.0)
        assert error.value.field == "guide"
    with pytest.raises(InputError, match="denoiser cannot leave layers out: use null"):
        pipe(1, guide="skipped-layers", guidance=2.0)
    assert pipe(1, guide="weaker", guidance=1.0)  # which guides nothing
    with pytest.raises(InputError, match="influence of the prompt is measured against the null condition"):
        explain(with_weaker(), 1, guide="null-then-weaker", guidance=2.0)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_weaker_model_reads_prompts_in_the_same_way() -> None:
    model, other = text_pipeline().model, text_pipeline().model
    assert model.with_weaker(other).weaker_denoiser is other.denoiser
    next(other.text_encoder.model.parameters()).data.add_(1)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="has another text encoder than"):
        model.with_weaker(other)
    classes = toy_pipeline().model
    with pytest.raises(InputError, match="has other classes than"):
        classes.with_weaker(replace(classes, class_names=("cat", "dog", "ship", "tree", "house")))


def test_the_folder_keeps_the_weaker_denoiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = with_weaker()
    pipe.model.save(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["components"]["weaker_denoiser"] == "ModernDenoiser"
    again = load(tmp_path / "model", device="cpu", precision="float32")
    assert is_packed(again.model.weaker_denoiser)  # type: ignore[arg-type]
    again.save(tmp_path / "again")
    both = [Pipeline(Model.load(tmp_path / name)) for name in ("model", "again")]
    wanted = tokens(pipe, 2, guidance=3.0, guide="weaker")
    assert all(torch.equal(tokens(one, 2, guidance=3.0, guide="weaker"), wanted) for one in both)
    half = load(tmp_path / "model", device="cpu", precision="bfloat16").model
    assert precision_of(half.weaker_denoiser) == "bfloat16"  # type: ignore[arg-type]
    main(["info", str(tmp_path / "model")])
    assert "weaker_denoiser: ModernDenoiser, 1 layers, width 24, 2 heads\n" in capsys.readouterr().out
    with_weaker().save_for_hub(tmp_path / "hub", "owner/name")
    assert (tmp_path / "hub" / "weaker_denoiser" / "model.safetensors").is_file()
    (tmp_path / "model" / "weaker_denoiser" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"weaker_denoiser.model.safetensors is missing"):
        Model.load(tmp_path / "model")


def test_another_model_lends_its_denoiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong, weak = (
        with_weaker().model,
        replace(with_weaker().model, denoiser=modern(1, 2, width=24, num_classes=CLASSES)),
    )
    for name, model in (("strong", strong), ("weak", weak)):
        replace(model, weaker_denoiser=None).save(tmp_path / name)
    folders = {name: str(tmp_path / name) for name in ("strong", "weak", "both")}
    main(["convert", folders["strong"], "--weaker", folders["weak"], "-o", folders["both"]])
    wanted = tokens(with_weaker(), 2, guidance=3.0, guide="weaker")
    assert torch.equal(tokens(Pipeline(Model.load(tmp_path / "both")), 2, guidance=3.0, guide="weaker"), wanted)
    out = str(tmp_path / "image.png")
    chosen = ["--guide", "null-then-weaker", "--guidance", "2"]
    main(["generate", "--label", "2", "--model", folders["both"], *chosen, "-o", out])
    main(["redraw", out, "--model", folders["both"]])
    assert "the same" in capsys.readouterr().out
    assert [one.fingerprint for one in map(Model.load, [tmp_path / "both", tmp_path / "strong"])] != ["unsaved"] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"denoiser": modern(1, 2, num_classes=CLASSES + 1)},
            "the weaker denoiser has num_classes 6 and the denoiser 5",
        ),
        (
            {"denoiser": ClassicDenoiser(ClassicConfig(CODES + 1, TIMES, 8, 16, 1, 2, num_classes=CLASSES))},
            "the weaker denoiser has num_codes 13 and the denoiser 12",
        ),
        ({"schedule": Schedule.mask_only(TIMES, CODES)}, "has another schedule"),
        ({"image_tokenizer": None}, "has another image tokenizer"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    model = with_weaker().model
    if "image_tokenizer" in change:
        other = copy.deepcopy(model.image_tokenizer)
        next(iter(other.parameters())).data.add_(1)
        change = {"image_tokenizer": other}
    with pytest.raises(InputError, match=says):
        model.with_weaker(replace(model, weaker_denoiser=None, **change))
