"""Why an image looks as it does, against the network's own numbers."""

from __future__ import annotations

import json

import pytest
import torch

from toy_pipelines import toy_pipeline
from vqdiff.explanation import explain
from vqdiff.foundation.errors import InputError


def test_the_image_is_the_one_that_the_pipeline_gives() -> None:
    pipe = toy_pipeline()
    explanation = explain(pipe, "2", seed=5, negative="1", steps=3)
    assert explanation.image.tobytes() == pipe("2", seed=5, negative="1", steps=3)[0].tobytes()
    assert len(explanation.trace.tokens) == 3


def test_influence_is_what_the_prompt_adds_to_the_log_probability() -> None:
    """In one step all tokens are revealed: the network sees only MASK, with the prompt and without it."""
    pipe, times = toy_pipeline(), torch.tensor([8])
    explanation = explain(pipe, "2", seed=5, steps=1)
    masked = torch.full((1, 64), pipe.model.schedule.num_codes)
    cond, null = (
        pipe.model.bind(one)(masked, times).log_softmax(-1) for one in (pipe.model.encode(["2"]), pipe.model.null(1))
    )
    wanted = (cond - null)[0].gather(1, explanation.trace.final[0][:, None])[:, 0]
    torch.testing.assert_close(explanation.influence.flatten(), wanted)
    best = explanation.most_explained(2)
    assert [one["nats"] for one in best] == pytest.approx(wanted.sort(descending=True).values[:2].tolist(), abs=1e-3)
    row, column = divmod(int(wanted.argmax()), 8)
    assert (best[0]["row"], best[0]["column"]) == (row, column)
    assert best[0]["pixels"] == [4 * column, 4 * row, 4 * column + 4, 4 * row + 4]


def test_without_guidance_nothing_is_known_of_the_prompt() -> None:
    explanation = explain(toy_pipeline(), "2", guidance=1)
    assert not explanation.influence.any()


def test_each_token_has_the_step_and_the_confidence_of_its_reveal() -> None:
    explanation = explain(toy_pipeline(), "2", seed=5, sampler="purity")
    assert set(explanation.reveal_step.unique().tolist()) == {1, 2, 3, 4}
    first = explanation.reveal_step == 1
    torch.testing.assert_close(explanation.confidence[first], explanation.trace.confidence[0].view(8, 8)[first])
    summary = json.loads(json.dumps(explanation.summary()))
    assert [one["step"] for one in summary["steps"]] == [1, 2, 3, 4]
    assert sum(one["revealed"] for one in summary["steps"]) == 64
    assert summary["steps"][0]["confidence"] == pytest.approx(float(explanation.confidence[first].mean()), abs=1e-3)


def test_three_maps_of_the_size_of_the_image() -> None:
    assert explain(toy_pipeline(), "2").maps().size == (3 * 32 + 4 * 4, 32 + 2 * 4)


def test_mistakes_are_those_of_the_pipeline() -> None:
    with pytest.raises(InputError, match="labels run from 0 to 4"):
        explain(toy_pipeline(), "9")
