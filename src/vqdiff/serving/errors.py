"""Errors as HTTP responses in OpenAI's format."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from vqdiff.foundation.errors import InputError
from vqdiff.serving.engine import QueueFullError, StoppedError
from vqdiff.serving.limits import TooLargeError
from vqdiff.serving.schemas import Failure, Problem
from vqdiff.serving.service import ClientGoneError, UnknownModelError

logger = logging.getLogger(__name__)

Answer = tuple[int, Failure, dict[str, str]]
"""The status, body and headers of a response."""
_OUT_OF_RANGE = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "literal_error",
)  # fmt: skip
_LONGEST = 80
"""The most characters of a wrong value that are repeated."""


def failure_of(error: BaseException) -> Answer:
    """Return the response to an error; the details of internal errors go only to the log."""
    match error:
        case InputError():
            return _failure(413 if isinstance(error, TooLargeError) else 400, str(error), param=error.field)
        case UnknownModelError():
            return _failure(404, str(error), param="model", code="model_not_found")
        case RequestValidationError():
            return _invalid(error.errors()[0])
        case HTTPException():
            return _failure(error.status_code, str(error.detail), headers=error.headers)
        case QueueFullError():
            return _failure(429, str(error), headers={"Retry-After": str(round(error.retry_after))})
        case TimeoutError():
            return _failure(503, "the time for this request is up: use fewer steps", headers={"Retry-After": "10"})
        case StoppedError() | CancelledError():
            return _failure(503, "the server is stopping", headers={"Retry-After": "10"})
        case _:
            logger.error("a request failed", exc_info=error)
            return _failure(500, "the server failed to generate this: see its log")


def answer_of(error: BaseException) -> JSONResponse:
    """Return the response to an error, ready to send."""
    status, failure, headers = failure_of(error)
    return JSONResponse(failure.model_dump(), status, headers)


def _failure(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return status, Failure(error=Problem(message=message, type=kind, param=param, code=code)), dict(headers or {})


def _invalid(problem: dict[str, Any]) -> Answer:
    """Return 422 for a field of a wrong type or name; 400 for a value out of range (as for limits) or invalid JSON."""
    kind, (field, *within) = problem["type"], [str(part) for part in problem["loc"] if part != "body"] or [""]
    if kind == "json_invalid":
        return _failure(400, f"the request is not valid JSON: {problem['ctx']['error']} at character {field}")
    if not field:
        return _failure(422, "the request is not a JSON object: send one, as application/json")
    name = ".".join([field, *within])
    if kind == "extra_forbidden":
        return _failure(422, f"{name} is not a field of this request", param=field)
    if kind == "missing":
        return _failure(422, f"{name} is missing", param=field)
    reason = problem["msg"].replace("Input should", "it should")
    if kind == "value_error":
        reason = "it should be a file"  # the only error raised by FastAPI itself
    value = repr(problem["input"])
    shown = value if len(value) <= _LONGEST else f"{value[:_LONGEST]} …"
    return _failure(400 if kind in _OUT_OF_RANGE else 422, f"{name} is {shown}: {reason}", param=field)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=499)  # not read by anyone, but counted by the metrics
    return answer_of(error)


def add_handlers(app: FastAPI) -> None:
    """Make ``app`` respond to every error in this format."""
    kinds = (
        InputError,
        UnknownModelError,
        RequestValidationError,
        HTTPException,
        QueueFullError,
        StoppedError,
        TimeoutError,
    )
    for kind in (*kinds, CancelledError, ClientGoneError, RuntimeError, Exception):
        app.add_exception_handler(kind, _answer)
