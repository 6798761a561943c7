"""Candidates as rows of the engine's batches: the same images as alone, in turn and within bounds; and over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx2 as httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toy_pipelines import POISON, Gate, generate, toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.requests import VaryRequest
from vqdiff.sampling import Batch, SamplingSettings
from vqdiff.sampling.candidates import network_calls, rungs
from vqdiff.serving.contest import Contest
from vqdiff.serving.engine import Engine
from vqdiff.serving.limits import Limits

PATIENCE = 30.0
LIMITS = Limits(max_steps=32)


def test_requests_with_and_without_candidates_share_batches_within_the_bounds() -> None:
    pipe, alone = toy_pipeline("packed"), toy_pipeline("packed")
    picture = Image.effect_noise((32, 32), 60).convert("RGB")
    wanted: list[dict[str, Any]] = [
        {"best_of": 4},
        {"best_of": 1, "num_images": 2},
        {"best_of": 5, "pruning": "halving", "num_images": 2, "steps": 7},
        {"best_of": 3, "pruning": "halving", "sampler": "strided"},
        {"best_of": 2, "guidance": 1.0, "ranking": "text"},
    ]
    jobs = [generate(pipe.model, i % 3, seed=i, **one) for i, one in enumerate(wanted)]
    few = pipe.model.sampling.changed(best_of=4, pruning="halving")
    jobs += [
        VaryRequest(image=picture, strength=s, prompt=1, seed=9, settings=few).job(pipe.model) for s in (0.05, 0.0)
    ]
    gate = Gate(pipe, shut=False)
    engine = Engine(max_rows=3)
    try:
        tickets = [engine.submit(pipe, job, client=str(i % 2), trace=i == 0) for i, job in enumerate(jobs)]
        for ticket, job in zip(tickets, jobs, strict=True):
            generated = ticket.result(PATIENCE)
            assert torch.equal(generated.tokens, alone.tokens(job)), job.record
            assert ticket.progress[0] == ticket.progress[1] or job.canvas is not None
        assert tickets[2].progress[1] == 2 * network_calls(jobs[2].settings, 7)
        (trace,) = tickets[0].traces or ()
        assert len(trace) == 4
        assert torch.equal(trace[-1].tokens[0], tickets[0].result().tokens)
        assert max(gate.sizes) == 6  # of three guided rows
        assert engine.counts.images == 9
    finally:
        assert engine.stop(drain=False, timeout=PATIENCE)


def test_candidates_are_counted_as_rows_of_their_client() -> None:
    """Two clients, one with eight candidates: both get a row of two, in every step."""
    pipe = toy_pipeline()
    gate = Gate(pipe)
    engine = Engine(max_rows=2)
    try:
        many = engine.submit(pipe, generate(pipe.model, 1, best_of=8, guidance=1.0, steps=8), client="many")
        gate.await_call()
        few = engine.submit(pipe, generate(pipe.model, 2, seed=5, guidance=1.0, steps=4), client="few")
        gate.let(5)  # the step that had begun, and the four of the other client's image
        few.result(PATIENCE)
        assert not many.done()
        gate.open()
        many.result(PATIENCE)
    finally:
        gate.open()
        assert engine.stop(drain=False, timeout=PATIENCE)


def test_a_preview_shows_one_candidate_of_each_image() -> None:
    pipe = toy_pipeline()
    engine = Engine(max_rows=4)
    try:
        ticket = engine.submit(pipe, generate(pipe.model, 1, best_of=4, num_images=2), previews=True)
        ticket.result(PATIENCE)
        assert set(ticket.previews) == {0, 1}
        assert {one.steps for one in ticket.previews.values()} == {4}
    finally:
        assert engine.stop(drain=False, timeout=PATIENCE)


def test_a_failure_and_an_end_while_candidates_are_paused() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe, shut=False)
    engine = Engine(max_rows=2)
    try:
        gate.spoil = True
        poisoned = engine.submit(pipe, generate(pipe.model, POISON, best_of=4, pruning="halving"))
        other = engine.submit(pipe, generate(pipe.model, 1, best_of=4, pruning="halving"))
        with pytest.raises(RuntimeError, match="poisoned"):
            poisoned.result(PATIENCE)
        other.result(PATIENCE)
        ended = engine.submit(pipe, generate(pipe.model, 1, best_of=50, pruning="halving"))
        ended.cancel()
        engine.submit(pipe, generate(pipe.model, 2, best_of=2)).result(PATIENCE)
        assert (engine.running, engine.waiting) == (0, 0)
    finally:
        assert engine.stop(drain=False, timeout=PATIENCE)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whenever_candidates_arrive_the_same_one_wins(data: st.DataObject) -> None:
    """Against ranking all of them at once; a candidate's score is a function of itself and of its steps."""
    steps = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=9))
    pruning, longest = data.draw(st.sampled_from(["none", "halving"])), max(steps)
    wanted = SamplingSettings(best_of=len(steps), pruning=pruning)
    scores = data.draw(st.lists(st.integers(0, 3), min_size=10 * len(steps), max_size=10 * len(steps)))
    left = list(range(len(steps)))
    for stop, count in [*rungs(wanted, longest).items(), (longest, 1)]:
        left = sorted(sorted(left, key=lambda one: -scores[10 * one + min(stop, steps[one])])[:count])

    contest, taken = Contest(wanted, steps), dict.fromkeys(range(len(steps)), 0)
    going = list(taken)

    def score(batches: Any, finished: bool) -> list[float]:
        assert not finished or all(taken[one.candidate] == steps[one.candidate] for one in batches)
        return [float(scores[10 * one.candidate + taken[one.candidate]]) for one in batches]

    while contest.winner is None:
        one = data.draw(st.sampled_from(going))
        if contest.pauses(taken[one], steps[one] - taken[one]):
            going.remove(one)
            row: Any = _Row(one, steps[one] - taken[one])
            going += contest.arrive({one: row}, score)
        else:
            taken[one] += 1
    assert [contest.winner[0]] == left


class _Row(Batch):
    """A batch of one row that knows only whose it is and how many steps it has left."""

    def __init__(self, candidate: int, left: int) -> None:
        vars(self).update(candidate=candidate, steps_left=left)

    @property
    def left(self) -> torch.Tensor:
        return torch.tensor([vars(self)["steps_left"]])


def test_over_http(http: httpx.Client, server: tuple[str, Pipeline]) -> None:
    body = {"prompt": "1", "seed": 3, "best_of": 4, "pruning": "halving"}
    answer = http.post("/api/draw", json=body).raise_for_status().json()
    with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
        assert image.convert("RGB").tobytes() == server[1](1, seed=3, best_of=4, pruning="halving")[0].tobytes()
    for wrong, says in (
        ({"best_of": 9}, "best_of is 9: give 1 to 8"),
        ({"best_of": 0}, "best_of is 0"),
        ({"best_of": 2, "ranking": "scorer"}, "use likelihood"),
    ):
        answer = http.post("/api/draw", json=body | wrong)
        assert (answer.status_code, says in answer.text) == (400, True), answer.text
        assert answer.json()["error"]["param"] in wrong
