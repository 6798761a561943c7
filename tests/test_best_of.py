"""The best of n candidates in a pipeline, against candidates that are sampled and ranked one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from bundled_model import bundled_pipeline
from toy_pipelines import generate, toy_pipeline
from vqdiff import Blend, Pipeline
from vqdiff.diffusion import Schedule
from vqdiff.explanation import explain
from vqdiff.foundation.errors import InputError
from vqdiff.model import Job
from vqdiff.requests import EditRequest, ExpandRequest, ReviseRequest, VaryRequest, request_of
from vqdiff.sampling import agreement, likelihood, run
from vqdiff.sampling.candidates import candidate_seeds, network_calls
from vqdiff.scorer import CaptionScore


def by_hand(pipe: Pipeline, job: Job) -> torch.Tensor:
    """Sample every candidate of one image alone, to its end, and rank by what it had at each step of ranking."""
    model, settings = pipe.model, job.settings
    with torch.inference_mode():
        condition = model.encode(job.conditions)
        null = model.encode([job.negative]) if settings.ranking == "text" else None
        runs = list[list[torch.Tensor]]()
        for candidate in range(settings.best_of):
            canvas = None if job.canvas is None else job.canvas.select([candidate])
            (seed,) = candidate_seeds(job.seeds, settings.best_of)[candidate : candidate + 1]
            one = replace(job, seeds=[seed], settings=replace(settings, best_of=1), canvas=canvas)
            batch = one.start(model)
            frames = [batch.tokens] if not batch.left.any() else []
            frames += [frame.tokens for frame in run(batch, model.bind(*one.encode(model)))][: int(batch.left)]
            runs.append(frames)
        longest = max(len(frames) for frames in runs)
        bound, left = model.bind(condition, null), list(range(settings.best_of))

        def keep(count: int, step: int) -> None:
            states = {one: runs[one][min(step, len(runs[one])) - 1] for one in left}
            score = agreement if settings.ranking == "text" else likelihood
            scores = {one: score(bound, model.schedule, tokens)[0] for one, tokens in states.items()}
            worst_first = sorted(left, key=lambda one: (scores[one], -one))
            for one in worst_first[: len(left) - count]:
                left.remove(one)

        if settings.prunes:
            for share in (0.25, 0.5):
                step = next(step for step in range(1, longest + 1) if step >= share * longest)
                if step < longest:
                    keep((len(left) + 1) // 2, step)
        keep(1, longest)
        return runs[left[0]][-1]


def edits() -> list[Any]:
    picture, mask = Image.effect_noise((32, 32), 60).convert("RGB"), Image.new("L", (32, 32))
    ImageDraw.Draw(mask).rectangle((0, 0, 16, 10), fill=255)
    return [
        EditRequest(image=picture, mask=mask, prompt=1, seed=7),
        ExpandRequest(image=picture, left=20, prompt=2, seed=8),
        VaryRequest(image=picture, strength=0.6, prompt=3, seed=9),
        VaryRequest(image=picture, strength=0.05, prompt=3, seed=12),  # candidates of different numbers of steps
        VaryRequest(image=picture, strength=0.0, prompt=3, seed=10),
        ReviseRequest(image=picture, share=0.3, prompt=1, seed=11),
    ]


@pytest.mark.parametrize(("pruning", "sampler"), [("none", "purity"), ("halving", "strided")])
def test_it_is_the_best_of_candidates_that_are_sampled_alone(pruning: str, sampler: str) -> None:
    pipe = toy_pipeline("packed", steps=4)
    changes = {"best_of": 4, "pruning": pruning, "sampler": sampler}
    jobs = [
        generate(pipe.model, 2, seed=4, guidance=1.0, **changes),
        generate(pipe.model, 2, seed=5, negative=1, **changes | {"steps": 5}),
        generate(pipe.model, 3, seed=6, ranking="text", **changes),
        generate(pipe.model, 3, seed=6, ranking="text", guidance=1.0, **changes),
        *(replace(one, settings=pipe.model.sampling.changed(**changes)).job(pipe.model) for one in edits()),
    ]
    for job in jobs:
        assert torch.equal(pipe.tokens(job), by_hand(pipe, job)), job.record


@pytest.mark.parametrize("pruning", ["none", "halving"])
def test_candidates_that_need_fewer_steps_than_planned(pruning: str) -> None:
    """By an adaptive sampler, each with an error so large that it is finished after one step."""
    pipe = toy_pipeline("packed", steps=4)
    changes: dict[str, Any] = {"best_of": 3, "pruning": pruning, "sampler": "entropy-bound", "error": 1000.0}
    job = generate(pipe.model, [1, 2], seed=4, **changes)
    one, calls = pipe.tokens(job), list[tuple[int, int]]()
    assert (one < pipe.model.schedule.num_codes).all()
    pipe([1, 2], seed=4, on_step=lambda *counts: calls.append(counts), **changes)
    assert calls[-1][0] == calls[-1][1]


def test_without_candidates_nothing_changes() -> None:
    pipe = toy_pipeline()
    plain, one, four = (pipe([1, 2], seed=3, best_of=best_of) for best_of in (None, 1, 4))
    assert [image.tobytes() for image in plain] == [image.tobytes() for image in one]
    assert [image.tobytes() for image in plain] != [image.tobytes() for image in four]


@pytest.mark.parametrize("pruning", ["none", "halving"])
def test_an_image_is_the_same_in_any_batch_and_from_its_record(pruning: str) -> None:
    pipe = toy_pipeline("packed")
    job = generate(pipe.model, [1, 2], num_images=2, seed=3, best_of=3, pruning=pruning)
    images = pipe.sample(job)
    for size in (1, 30):
        assert [one.tobytes() for one in pipe.sample(job, batch_size=size)] == [one.tobytes() for one in images]
    for i, image in enumerate(images):
        assert pipe.draw(request_of(job.record_of(i)))[0].tobytes() == image.tobytes()
    older = {name: value for name, value in job.record_of(0).items() if name not in ("best_of", "ranking", "pruning")}
    assert pipe.draw(request_of(older))[0].tobytes() == pipe(1, seed=3)[0].tobytes()


@pytest.mark.parametrize("changes", [{}, {"pruning": "halving"}, {"best_of": 1}])
def test_the_progress_is_in_network_calls(changes: dict[str, Any]) -> None:
    pipe, seen = toy_pipeline(steps=8), list[tuple[int, int]]()
    settings = pipe.settings(**{"best_of": 4} | changes)
    pipe([1, 2, 3], seed=3, batch_size=8, on_step=lambda done, total: seen.append((done, total)), **vars(settings))
    total = 3 * network_calls(settings, 8)
    assert {one for _, one in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


def test_its_steps_are_those_of_the_chosen_candidate() -> None:
    pipe = toy_pipeline()
    (image,) = pipe(1, seed=6, best_of=4)
    assert image.tobytes() != pipe(1, seed=6)[0].tobytes()
    *_, last = pipe.stream(1, seed=6, best_of=4)
    assert (last.step, last.image.tobytes()) == (4, image.tobytes())
    explanation = explain(pipe, 1, seed=6, best_of=4)
    assert explanation.image.tobytes() == image.tobytes()
    assert explanation.record["best_of"] == 4


def test_what_cannot_be_ranked() -> None:
    pipe = toy_pipeline()
    picture = Image.new("RGB", (32, 32))
    with pytest.raises(InputError, match="ranking is text, which needs a prompt: give one, or use likelihood"):
        pipe.vary(picture, best_of=2, ranking="text")
    with pytest.raises(InputError, match="ranking is text, which needs a prompt"):
        toy_pipeline("unconditional")(best_of=2, ranking="text")
    with pytest.raises(InputError, match="conditioned on labels: use likelihood"):
        pipe(1, best_of=2, ranking="scorer")
    with pytest.raises(InputError, match="best_of is 0: it must be between 1 and 1000, 1 is off"):
        pipe(1, best_of=0)
    with pytest.raises(InputError, match=r"best_of is 1\.5: give a whole number"):
        pipe(1, best_of=1.5)
    with pytest.raises(InputError, match="unknown ranking 'clip'"):
        pipe(1, best_of=2, ranking="clip")
    model = pipe.model
    replaces = Pipeline(replace(model, schedule=Schedule.uniform_only(8, model.schedule.num_codes)))
    with pytest.raises(InputError, match="schedule has no masks: use best_of 1"):
        replaces(1, best_of=2, sampler="strided")
    pipe(1, ranking="scorer", pruning="halving")  # without candidates, how they are ranked does not matter


def test_a_model_conditioned_on_text() -> None:
    """The scorer chooses what it scores highest; where a network or a null condition is missing, a line says so."""
    pipe, text = bundled_pipeline(), "a red apple"
    options: dict[str, Any] = {"steps": 2, "best_of": 3}
    score = CaptionScore()
    candidates = [pipe(text, seed=seed, steps=2)[0] for seed in candidate_seeds([4], 3)]
    pixels = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).view(1, *one.size, 3) for one in candidates]
    scores = [score(text, one.permute(0, 3, 1, 2) / 255) for one in pixels]
    chosen = candidates[scores.index(max(scores))]
    assert pipe(text, seed=4, ranking="scorer", **options)[0].tobytes() == chosen.tobytes()
    assert pipe(Blend(text, "a house"), seed=4, **options)[0].tobytes() in [
        pipe(Blend(text, "a house"), seed=seed, steps=2)[0].tobytes() for seed in candidate_seeds([4], 3)
    ]
    with pytest.raises(InputError, match="not by a blend of two: use likelihood"):
        pipe(Blend(text, "a house"), ranking="scorer", **options)
    without = Pipeline(replace(pipe.model, null_condition=None))
    with pytest.raises(InputError, match="compares with a null condition, and this model has none"):
        without(text, guidance=1, ranking="text", **options)
    assert without(text, guidance=1, seed=4, ranking="scorer", **options)


def test_the_scorer_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqdiff.foundation.extras.installed", lambda name: not name.startswith("efficientnet"))
    with pytest.raises(InputError, match=r"pip install 'vqdiff\[eval\]'"):
        bundled_pipeline()("a red apple", best_of=2, ranking="scorer", steps=1)
