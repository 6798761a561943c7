"""Requests made up from our own OpenAPI page: whatever comes, the answer is one that the page promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from servers import serving
from toy_pipelines import toy_pipeline
from vqdiff.serving.limits import Limits


@pytest.fixture(scope="module")
def page() -> Iterator[schemathesis.BaseSchema]:
    with serving(toy_pipeline("unconditional", steps=1), limits=Limits(max_steps=3, max_images=2)) as (address, _):
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


POSTS = ("/v1/images/generations", "/v1/images/edits", "/api/draw", "/sdapi/v1/txt2img", "/sdapi/v1/img2img")
POSTS += ("/sdapi/v1/options",)
CASES = [("POST", path, mode) for path in POSTS for mode in GenerationMode]
CASES += [
    ("GET", path, GenerationMode.POSITIVE)
    for path in ("/v1/models", "/v1/models/{name}", "/api/models", "/readyz", "/metrics")
]
CASES += [
    ("GET", f"/sdapi/v1/{path}", GenerationMode.POSITIVE)
    for path in ("progress", "options", "sd-models", "samplers", "scripts")
]
CASES.append(("POST", "/sdapi/v1/interrupt", GenerationMode.POSITIVE))


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_any_request_gets_an_answer_that_was_promised(
    page: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = page[path][method]
    number = 10 if path.startswith("/sdapi") else 30  # their fields are the same in other words

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=number, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        # A body may be of the right shape and still request what this model can't draw: 400.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
