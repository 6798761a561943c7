"""Requests that share the steps of one batch: the same tokens as alone, in turn, within bounds, and each on its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bundled_model import bundled_pipeline
from toy_pipelines import POISON, Gate, generate, toy_pipeline
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import processor
from vqdiff.model import Job
from vqdiff.pipeline import Pipeline
from vqdiff.requests import EditRequest, ReviseRequest, VaryRequest
from vqdiff.sampling import Guidance, run
from vqdiff.serving.engine import Engine, QueueFullError, StoppedError
from vqdiff.serving.running_batch import Ticket

PATIENCE = 30.0


@contextmanager
def engine_for(gate: Gate | None = None, **limits: Any) -> Iterator[Engine]:
    engine = Engine(**limits)
    try:
        yield engine
    finally:
        if gate is not None:
            gate.open()
        assert engine.stop(drain=False, timeout=PATIENCE)


def alone(pipe: Pipeline, job: Job) -> torch.Tensor:
    with torch.inference_mode():
        *_, last = run(job.start(pipe.model), pipe.model.bind(*job.encode(pipe.model)))
    return last.tokens


def requests(pipe: Pipeline, prompts: tuple[str | int, str | int, str | int]) -> list[Job]:
    model, (one, two, three) = pipe.model, prompts
    side = model.image_tokenizer.config.image_size
    picture, mask = Image.effect_noise((side, side), 60).convert("RGB"), Image.new("L", (side, side))
    ImageDraw.Draw(mask).rectangle((0, 0, side // 2, side // 3), fill=255)
    edits = [
        EditRequest(image=picture, mask=mask, prompt=two, seed=7),
        EditRequest(image=picture, mask=mask, seed=8, settings=model.sampling.changed(sampler="strided")),
        VaryRequest(image=picture, strength=0.5, prompt=three, num_images=2, seed=9),
        VaryRequest(image=picture, strength=0.0, seed=10),
        ReviseRequest(image=picture, share=0.3, prompt=one, seed=11, settings=model.sampling.changed(prior_scale=2.0)),
        EditRequest(image=picture, mask=mask, prompt=one, seed=16, settings=model.sampling.changed(curve="measured")),
    ]
    return [
        generate(model, one, seed=1),
        generate(model, two, seed=2, num_images=3, steps=7),
        generate(model, one, seed=3, sampler="strided", steps=5, truncation=0.8),
        generate(model, three, seed=4, guidance=1.0),
        generate(model, three, seed=5, guidance=Guidance(2.0, "linear", (0.2, 0.7)), steps=6),
        generate(model, one, seed=6, negative=two, guidance=2.5),
        *(edit.job(model) for edit in edits),
        generate(model, two, seed=12, sampler="reference-purity"),
        generate(model, two, seed=14, sampler="entropy-bound", error=3.0, num_images=2),
        generate(model, one, seed=15, sampler="corrected", corrector_share=0.2),
        generate(model, one, seed=16, sampler="renoised", renoise_loop=0.5, steps=8),
        generate(model, two, seed=17, sampler="renoised", steps=6),
        generate(model, two, seed=13, steps=1),
        generate(model, three, seed=17, curve="measured", num_images=2),
    ]


def test_a_trace_is_what_the_steps_did() -> None:
    pipe = toy_pipeline()
    works = [generate(pipe.model, 1, seed=1, num_images=2), generate(pipe.model, 2, seed=3, steps=7)]
    with engine_for(max_rows=2) as engine:
        tickets = [engine.submit(pipe, work, trace=True) for work in works]
        for ticket, work in zip(tickets, works, strict=True):
            ticket.result(PATIENCE)
            with torch.inference_mode():
                wanted = list(run(work.start(pipe.model), pipe.model.bind(*work.encode(pipe.model))))
            assert ticket.traces is not None
            for i, steps in enumerate(ticket.traces):
                for one, other in zip(steps, wanted, strict=True):
                    assert torch.equal(one.tokens[0, 0], other.tokens[i])
                    assert torch.equal(one.revealed[0, 0], other.revealed[i])
                    torch.testing.assert_close(one.confidence[0, 0], other.confidence[i])


def test_a_trace_that_fails_fails_its_request_alone() -> None:
    pipe = toy_pipeline()
    head, tokens = pipe.model.denoiser.logits, pipe.model.num_tokens

    def logits(features: torch.Tensor) -> torch.Tensor:
        if features.shape[:2] == (1, tokens):  # only a trace asks everywhere for one picture without guidance
            raise RuntimeError("too much")
        return head(features)

    pipe.model.denoiser.logits = logits
    settings = {"steps": 4, "guidance": 1.0, "sampler": "halton"}
    with engine_for(max_rows=2) as engine:
        traced, other = (
            engine.submit(pipe, generate(pipe.model, 1, seed=seed, **settings), trace=trace)
            for seed, trace in ((1, True), (2, False))
        )
        with pytest.raises(RuntimeError, match="too much"):
            traced.result(PATIENCE)
        other.result(PATIENCE)
        assert engine.alive


@pytest.mark.parametrize(("kind", "clients"), [("modern", 1), ("classic", 1), ("modern", 4)])
def test_requests_at_any_time_get_the_tokens_they_get_alone(kind: str, clients: int) -> None:
    pipe = toy_pipeline(kind)
    works = requests(pipe, (0, 1, 2))
    wanted = [alone(pipe, work) for work in works]
    assert not torch.equal(wanted[0], alone(pipe, generate(pipe.model, 3, seed=1)))  # the condition has a say
    gate = Gate(pipe)
    with engine_for(gate, max_rows=5) as engine:
        tickets = [engine.submit(pipe, works[0])]
        gate.await_call()
        for number, work in enumerate(works[1:]):
            tickets.append(engine.submit(pipe, work, client=str(number % clients)))
            gate.let(number % 3)
        gate.open()
        drawn = [ticket.result(PATIENCE) for ticket in tickets]
    for ticket, one, tokens in zip(tickets, drawn, wanted, strict=True):
        assert torch.equal(one.tokens, tokens)
        assert ticket.progress[0] == ticket.progress[1]
    assert max(gate.sizes) <= 10  # five pictures, twice
    assert clients > 1 or max(gate.sizes) == 10  # rows were shared; of several clients some are set aside meanwhile
    images = [image.tobytes() for image in tickets[6].images()]
    assert images == [image.tobytes() for image in pipe.sample(works[6])]


@cache
def drawn_alone(kind: str) -> tuple[list[Job], list[torch.Tensor]]:
    pipe = toy_pipeline(kind)
    works = requests(pipe, (0, 1, 2))
    return works, [alone(pipe, work) for work in works]


@settings(max_examples=10)
@given(st.data())
def test_requests_arriving_at_random(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["modern", "packed", "classic"]))
    pipe = toy_pipeline(kind)
    works, wanted = drawn_alone(kind)
    gate, order = Gate(pipe), data.draw(st.permutations(range(len(works))))
    with engine_for(gate, max_rows=data.draw(st.integers(3, 9))) as engine:
        tickets = dict[int, Ticket]()
        for number in order:
            tickets[number] = engine.submit(pipe, works[number], client=str(number % 3))
            gate.allow(data.draw(st.integers(0, 3)))
        gate.open()
        for number, tokens in enumerate(wanted):
            assert torch.equal(tickets[number].result(PATIENCE).tokens, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "float32", "int8"])
def test_the_bundled_model_gives_the_tokens_of_alone(precision: Precision) -> None:
    if precision == "int8" and processor().int8 is None:
        pytest.skip("needs a CPU with VNNI")
    pipe = bundled_pipeline(precision)
    works = requests(pipe, ("a red apple", "a cat", "a green tree"))
    with engine_for(max_rows=8) as engine:
        tickets = [engine.submit(pipe, work) for work in works]
        drawn = [ticket.result(600.0) for ticket in tickets]
    for work, one in zip(works, drawn, strict=True):
        assert torch.equal(one.tokens, alone(pipe, work))


def test_unconditional_models_and_several_models_at_once() -> None:
    pipes = [toy_pipeline("unconditional"), toy_pipeline("modern"), toy_pipeline("classic")]
    works = [generate(pipe.model, 1, num_images=2, seed=3) for pipe in pipes for _ in range(2)]
    running = list[int]()
    with engine_for(max_rows=5) as engine:
        note = lambda: running.append(engine.running)  # noqa: E731
        tickets = [engine.submit(pipes[i // 2], work, on_change=note) for i, work in enumerate(works)]
        for i, ticket in enumerate(tickets):
            assert [one.tobytes() for one in ticket.images(PATIENCE)] == [
                one.tobytes() for one in pipes[i // 2](1, num_images=2, seed=3)
            ]
    assert max(running) == 5  # over all models


def test_what_waits_is_small() -> None:
    """A queue of any length holds tokens and encoded conditions; what a network call needs besides is made for rows."""
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with engine_for(gate, max_rows=2, max_waiting=50) as engine:
        first = engine.submit(pipe, generate(pipe.model, 0, num_images=2))
        gate.await_call()
        waiting = [engine.submit(pipe, generate(pipe.model, 1, num_images=3)) for _ in range(50)]
        assert engine.running == 2
        assert all(ticket.bound is None and not ticket.finished for ticket in waiting)
        gate.open()
        for ticket in (first, *waiting):
            ticket.result(PATIENCE)
            assert ticket.bound is None
    assert max(gate.sizes) == 4  # two pictures, guided


def test_first_come_first_served_picture_by_picture() -> None:
    """Ten pictures and then two single ones, four rows: in three rounds all are done, whoever else comes after."""
    pipe = toy_pipeline(steps=2)
    gate = Gate(pipe)
    with engine_for(gate, max_rows=4) as engine:
        large = engine.submit(pipe, generate(pipe.model, 0, num_images=10, guidance=1.0))
        gate.await_call()
        small = [engine.submit(pipe, generate(pipe.model, 1, guidance=1.0)) for _ in range(2)]
        crowd = [engine.submit(pipe, generate(pipe.model, 2, guidance=1.0)) for _ in range(9)]
        gate.let(4)
        assert engine.running == 4
        assert large.progress == (16, 20)
        assert not any(ticket.done() for ticket in small)  # none has overtaken
        gate.let(2)
        assert large.done()
        assert all(ticket.done() for ticket in small)  # nor waited for more than its turn
        assert not any(ticket.done() for ticket in crowd)
        assert set(gate.sizes) == {4}


def test_a_full_queue_is_reported_and_has_room_when_one_gives_up() -> None:
    pipe = toy_pipeline()
    gate, work = Gate(pipe), generate(pipe.model, 0)
    with engine_for(gate, max_rows=1, max_waiting=2) as engine:
        engine.submit(pipe, work)
        gate.await_call()
        waiting = [engine.submit(pipe, work) for _ in range(2)]
        with pytest.raises(QueueFullError) as error:
            engine.submit(pipe, work)
        assert error.value.retry_after >= 1
        assert waiting[1].cancel()
        assert engine.waiting == 1
        engine.submit(pipe, work)


def test_cancelling_frees_the_rows_before_the_next_step() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with engine_for(gate, max_rows=4) as engine:
        first = engine.submit(pipe, generate(pipe.model, 0, num_images=3, guidance=1.0))
        gate.await_call()
        second = engine.submit(pipe, generate(pipe.model, 1, num_images=4, guidance=1.0))
        gate.let(1)
        assert first.cancel()
        gate.let(2)
        assert gate.sizes == [3, 4, 4]  # three; three and one of the second; the second's four
        with pytest.raises(CancelledError):
            first.result(0)
        gate.open()
        assert torch.equal(second.result(PATIENCE).tokens, alone(pipe, second.job))
    assert (engine.counts.images, engine.counts.cancelled) == (4, 1)


def test_a_request_that_fails_fails_alone() -> None:
    pipe = toy_pipeline()
    works = [generate(pipe.model, label, num_images=2, seed=label) for label in (0, POISON, 1)]
    wanted = [alone(pipe, work) for work in works]
    gate = Gate(pipe)
    gate.spoil = True
    with engine_for(gate, max_rows=8) as engine:
        tickets = [engine.submit(pipe, work) for work in works]
        gate.open()
        with pytest.raises(RuntimeError, match="poisoned"):
            tickets[1].result(PATIENCE)
        for i in (0, 2):
            assert torch.equal(tickets[i].result(PATIENCE).tokens, wanted[i])
        assert engine.alive


@pytest.mark.parametrize("part", ["decode", "preview", "bind"])
def test_what_else_fails_ends_its_request(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, other = toy_pipeline(), toy_pipeline()

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(pipe.model if part == "bind" else pipe, part, broken)
    with engine_for() as engine:
        works = [(one, generate(one.model, 0)) for one in (pipe, other)]
        tickets = [engine.submit(one, work, previews=True) for one, work in works]
        with pytest.raises(RuntimeError, match="broken"):
            tickets[0].result(PATIENCE)
        assert len(tickets[1].images(PATIENCE)) == 1


def test_progress_and_previews() -> None:
    pipe = toy_pipeline(steps=4)
    gate, reported = Gate(pipe), list[tuple[int, int]]()
    with engine_for(gate, preview_share=float("inf")) as engine:  # one after every step
        work = generate(pipe.model, 0, num_images=2, guidance=1.0)
        ticket = engine.submit(pipe, work, previews=True, on_change=lambda: reported.append(ticket.progress))
        gate.await_call()
        other = engine.submit(pipe, work)
        gate.let(3)
        assert ticket.progress == (6, 8)
        previews = [ticket.previews[i] for i in (0, 1)]
        assert [(one.number, one.step, one.steps) for one in previews] == [(3, 3, 4), (2, 2, 4)]  # taking turns
        assert previews[0].image.size == (32, 32)
        gate.open()
        ticket.result(PATIENCE)
        assert other.result(PATIENCE)
        assert (reported[0], reported[-1]) == ((2, 8), (8, 8))
        assert not other.previews


@pytest.mark.parametrize(("alone", "least", "most"), [(True, 39, 39), (False, 40 / 3, 40 / 2 + 1)])
def test_previews_take_their_share_from_others(
    alone: bool, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview lasts a tick, and a turn of the engine two more: with others, five ticks pass from one to the next."""
    pipe, times = toy_pipeline(), iter(range(1000))
    monkeypatch.setattr("vqdiff.serving.engine.time.monotonic", lambda: float(next(times)))
    shown, preview, gate = list[int](), pipe.preview, Gate(pipe)
    monkeypatch.setattr(pipe, "preview", lambda tokens: shown.append(0) or preview(tokens))
    with engine_for(gate) as engine:
        work = generate(pipe.model, 0, steps=40)
        tickets = [engine.submit(pipe, work, previews=True)]
        gate.await_call()
        if not alone:
            tickets.append(engine.submit(pipe, generate(pipe.model, 1, steps=50)))
        gate.open()
        for ticket in tickets:
            ticket.result(PATIENCE)
    assert least <= len(shown) <= most


def test_stopping_finishes_what_is_here_and_takes_no_more() -> None:
    pipe = toy_pipeline()
    gate, work = Gate(pipe), generate(pipe.model, 0, num_images=2)
    engine = Engine(max_rows=1)
    tickets = [engine.submit(pipe, work) for _ in range(3)]
    gate.await_call()
    threading.Timer(0.05, gate.open).start()
    assert engine.stop(timeout=PATIENCE)
    assert all(len(ticket.images(0.0)) == 2 for ticket in tickets)
    with pytest.raises(StoppedError):
        engine.submit(pipe, work)


def test_a_callers_mistake_is_raised_at_once() -> None:
    pipe = toy_pipeline()
    with engine_for() as engine:
        with pytest.raises(InputError, match="labels run from 0"):
            engine.submit(pipe, generate(pipe.model, 99))
        assert engine.waiting == 0
    with pytest.raises(InputError, match="max_rows"):
        Engine(max_rows=0)


class DeathError(BaseException):
    """What ends a thread."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_an_engine_that_died() -> None:
    pipe, engine = toy_pipeline(), Engine()
    gate, work = Gate(pipe), generate(pipe.model, 0)
    reports = iter([DeathError()])

    def die() -> None:
        for error in reports:
            raise error

    tickets = [engine.submit(pipe, work, on_change=die), engine.submit(pipe, work)]
    gate.open()
    for ticket in tickets:
        with pytest.raises(DeathError):
            ticket.result(PATIENCE)
    assert engine.stop(timeout=PATIENCE)
    assert not engine.alive


def test_many_threads_at_once() -> None:
    pipe = toy_pipeline(steps=2)
    wanted = [one.tobytes() for seed in range(40) for one in pipe(1, seed=seed)]
    got: dict[int, bytes] = {}
    with engine_for(max_rows=8) as engine:

        def ask(seed: int) -> None:
            got[seed] = engine.submit(pipe, generate(pipe.model, 1, seed=seed)).images(PATIENCE)[0].tobytes()

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [got[seed] for seed in range(40)] == wanted


def test_clients_share_the_rows() -> None:
    """Eight rows, and one client with thirty pictures of 40 steps: another's four are drawn in their own steps."""
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with engine_for(gate, max_rows=8) as engine:
        work = generate(pipe.model, 0, num_images=10, steps=40, guidance=1.0)
        large = [engine.submit(pipe, work, client="large") for _ in range(3)]
        gate.await_call()
        gate.let(5)
        small = [
            engine.submit(pipe, generate(pipe.model, 1, seed=seed, steps=4, guidance=1.0), client="small")
            for seed in range(4)
        ]
        gate.let(1)  # the call that was under way
        assert small[0].taken == 0
        gate.let(4)
        assert all(ticket.done() for ticket in small)  # four of the eight rows were theirs at once
        assert not any(ticket.done() for ticket in large)
        assert set(gate.sizes) == {8}  # and none was idle
        gate.let(1)
        assert engine.running == 8  # the four that were set aside are back
        gate.open()
        for ticket in large:
            assert torch.equal(ticket.result(PATIENCE).tokens, alone(pipe, work))
        for ticket in small:
            assert torch.equal(ticket.result(PATIENCE).tokens, alone(pipe, ticket.job))


def test_more_clients_than_rows_take_turns() -> None:
    """Two rows, four clients: nobody gets another picture begun before all have as many.

    Except for the one that the first of them got while it was alone.
    """
    pipe = toy_pipeline(steps=2)
    gate = Gate(pipe)
    with engine_for(gate, max_rows=2) as engine:
        work = generate(pipe.model, 0, num_images=4, guidance=1.0)
        first = engine.submit(pipe, work, client="a")
        gate.await_call()
        others = [engine.submit(pipe, work, client=name) for name in ("b", "c", "d")]
        tickets = [first, *others]
        assert len(first.queue) == 2
        while any(ticket.queue for ticket in tickets):
            gate.let(1)
            waiting = [len(first.queue) + 1, *(len(ticket.queue) for ticket in others)]
            assert max(waiting) - min(waiting) <= 1
        gate.open()
        for ticket in tickets:
            assert torch.equal(ticket.result(PATIENCE).tokens, alone(pipe, work))


def test_what_is_set_aside_can_be_given_up() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with engine_for(gate, max_rows=2) as engine:
        large = engine.submit(pipe, generate(pipe.model, 0, num_images=2, guidance=1.0), client="large")
        gate.await_call()
        small = engine.submit(pipe, generate(pipe.model, 1, guidance=1.0), client="small")
        gate.let(1)
        assert large.cancel()
        gate.open()
        assert torch.equal(small.result(PATIENCE).tokens, alone(pipe, small.job))
        assert engine.counts.cancelled == 1


def test_a_full_queue_has_room_for_who_has_less_in_it() -> None:
    pipe = toy_pipeline()
    gate, work = Gate(pipe), generate(pipe.model, 0)
    with engine_for(gate, max_rows=1, max_waiting=3) as engine:
        engine.submit(pipe, work, client="large")
        gate.await_call()
        large = [engine.submit(pipe, work, client="large") for _ in range(3)]
        small = [engine.submit(pipe, work, client="small")]
        with pytest.raises(QueueFullError):
            large[2].result(PATIENCE)  # the last that came has to go
        for client in ("small", "large"):
            with pytest.raises(QueueFullError):  # one and two: no better for a third
                engine.submit(pipe, work, client=client)
        gate.open()
        assert all(one.result(PATIENCE) for one in (*large[:2], *small))
        assert engine.counts.failures == 0
