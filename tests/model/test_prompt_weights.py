"""Prompts with weights, from the text to the image."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import vqdiff
from bundled_model import bundled_pipeline
from commands import run
from servers import client, serving
from toy_pipelines import generate, text_pipeline, toy_pipeline
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.formats import read_record
from vqdiff.pipeline import Pipeline
from vqdiff.requests import DrawRequest, request_of


@pytest.fixture(scope="module", params=["modern", "packed", "classic"])
def toy(request: pytest.FixtureRequest) -> Pipeline:
    return text_pipeline(request.param)


def drawn(pipe: Pipeline, prompts: Any, **more: Any) -> list[bytes]:
    return [image.tobytes() for image in pipe(prompts, guidance=2.0, steps=2, **more)]


def test_a_weight_changes_the_image_and_a_weight_of_1_does_not(toy: Pipeline) -> None:
    plain, one, heavy, light = "red apple", "(red:1.0) apple", "(red:3) apple", "(red:0.2) apple"
    a, b = (toy.model.encode([prompt]) for prompt in (plain, one))
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)
    prompts = [plain, one, heavy, light]
    images = drawn(toy, prompts, seed=5)
    # Beside others and alone.
    assert images == [drawn(toy, prompt, seed=5 + row)[0] for row, prompt in enumerate(prompts)]
    as_plain, as_one, as_heavy, as_light = (drawn(toy, prompt, seed=5) for prompt in prompts)
    assert as_plain == as_one
    assert as_heavy != as_plain != as_light


def test_weights_compose(toy: Pipeline) -> None:
    prompts = ("(red:2) (apple:3)", "(red:2) apple", "red (apple:3)", "((red:0.5) apple:4)", "(red:2) (apple:4)")
    both, first, second, nested, same = (toy.model.encode([prompt]) for prompt in prompts)
    assert both is not None
    assert both[0, :4, -1].tolist() == [1, 2, 3, 1]
    assert torch.equal(nested, same)  # type: ignore[arg-type]
    assert len({drawn(toy, prompt, seed=1)[0] for prompt in prompts[:3]}) == 3
    assert torch.equal(first[..., :-1], second[..., :-1])  # type: ignore[index]


def test_negative_prompts_and_blends_have_weights(toy: Pipeline) -> None:
    negatives = [drawn(toy, "red apple", negative=negative) for negative in ("a cat", "a (cat:1)", "a (cat:4)")]
    assert negatives[0] == negatives[1] != negatives[2]
    weighted = [drawn(toy, vqdiff.Blend("a (cat:4)", "a dog", weight)) for weight in (0.0, 0.5, 1.0)]
    assert weighted[0] == drawn(toy, "a (cat:4)")
    assert weighted[2] == drawn(toy, "a dog")
    assert weighted[1] != drawn(toy, vqdiff.Blend("a cat", "a dog", 0.5))


def test_the_prediction_of_the_bundled_model_changes() -> None:
    model = bundled_pipeline("float32").model
    tokens, t = torch.full((1, 256), 2048), torch.tensor([100])
    with torch.inference_mode():
        plain, half, double = (
            model.bind(model.encode([f"a {word} apple"]))(tokens, t).log_softmax(-1)
            for word in ("red", "(red:0.5)", "(red:2)")
        )
    assert (plain.exp() * (plain - half)).sum(-1).mean() > 0.005  # nats per token
    assert (plain.exp() * (plain - double)).sum(-1).mean() > 0.005
    # The logarithm of what the word makes more probable moves in both directions.
    assert ((half - plain) * (double - plain)).sum() < 0


def test_edits_of_an_image_take_weights() -> None:
    toy = text_pipeline()
    image = toy("a cat")[0]
    varied = [toy.vary(image, 0.9, prompt, seed=3)[0].tobytes() for prompt in ("a dog", "a (dog:1)", "a (dog:5)")]
    assert varied[0] == varied[1] != varied[2]


def test_what_cannot_be_weighted_is_reported(toy: Pipeline) -> None:
    with pytest.raises(InputError, match=r"the weight in \(red:nan\) must be above 0"):
        toy("a (red:nan) apple")
    with pytest.raises(InputError, match=r"the weight in \(red:-1\) must be above 0"):
        toy("a cat", negative="(red:-1)")
    with pytest.raises(InputError, match=r"classes, which have no weights: '\(2:1.5\)'"):
        toy_pipeline()("(2:1.5)")
    with pytest.raises(InputError, match="this model generates labels 0 to 4, not"):
        toy_pipeline()("(2)")


def test_a_denoiser_without_weights_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_pipeline().model
    monkeypatch.setattr(type(model.denoiser), "takes_token_weights", False)
    model.check(["flag (old)", "(red:1) apple"])
    with pytest.raises(InputError, match="this model's denoiser takes no prompt weights: leave them out"):
        model.check(["flag (old:2)"])


def test_a_weighted_word_is_known(toy: Pipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(toy.model, ["(apple:2)"]).remarks(toy.model) == []
    with pytest.warns(InputWarning, match="no word of the prompt 'קפה' is known"):
        remarks = generate(toy.model, "(קפה:2)").remarks(toy.model)
    assert len(remarks) == 1


def test_the_record_has_the_prompt_as_it_was_typed() -> None:
    toy = text_pipeline()
    request = DrawRequest(prompts=r"a (red:1.5) \(old\) apple", negative="(cat:2)", seed=3)
    record = request.record(toy.model)
    assert (record["prompts"], record["negative"]) == ([r"a (red:1.5) \(old\) apple"], "(cat:2)")
    again = request_of(json.loads(json.dumps(record)))
    assert toy.draw(again)[0].tobytes() == toy.draw(request)[0].tobytes()


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "apple.png"
    assert run("generate", "a (red:2) apple", "--steps", "1", "-o", str(file)) == 0
    assert read_record(file)["prompts"] == ["a (red:2) apple"]
    capsys.readouterr()
    assert run("redraw", str(file)) == 0
    assert "the same" in capsys.readouterr().out
    file.unlink()
    assert run("generate", "a (red:-2) apple", "-o", str(file)) == 2
    assert capsys.readouterr().err.startswith("vqdiff: error: the weight in (red:-2) must be above 0 and at most 10")
    assert not file.exists()


def test_over_http() -> None:
    toy = text_pipeline()
    with serving(toy) as (address, _), client(address) as http:

        def post(prompt: str) -> Any:
            return http.post("/v1/images/generations", json={"prompt": prompt, "seed": 5})

        plain, one, heavy = (post(prompt).json()["data"][0] for prompt in ("a cat", "a (cat:1)", "a (cat:5)"))
        wrong = post("a (cat:0)")
        webui = http.post("/sdapi/v1/txt2img", json={"prompt": "a (cat:5)", "seed": 5, "steps": 2}).json()
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "prompt"
    assert wrong.json()["error"]["message"].startswith("the weight in (cat:0) must be above 0")
    assert plain["b64_json"] != heavy["b64_json"] != one["b64_json"]
    assert json.loads(webui["info"])["infotexts"][0].startswith("a (cat:5)\n")
