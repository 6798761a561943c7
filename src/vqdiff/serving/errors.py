"""What went wrong, as an HTTP answer in the shape of OpenAI's."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from vqdiff.errors import InputError
from vqdiff.serving.engine import QueueFullError, StoppedError
from vqdiff.serving.limits import TooLargeError
from vqdiff.serving.schemas import Failure, Problem
from vqdiff.serving.service import ClientGoneError

logger = logging.getLogger(__name__)


def failure_of(error: BaseException) -> tuple[int, Failure, dict[str, str]]:
    """The status, body and headers that tell of an error; what is our own fault is told in the log only."""
    match error:
        case TooLargeError():
            return _failure(413, str(error))
        case InputError():
            return _failure(400, str(error))
        case RequestValidationError():
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"] if part != "body")
            return _failure(422, f"{where}: {problem['msg']}" if where else problem["msg"], param=where or None)
        case HTTPException():
            return _failure(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        case QueueFullError():
            return _failure(429, str(error), headers={"Retry-After": str(round(error.retry_after))})
        case TimeoutError():
            return _failure(503, "the time for this request is up: ask for less", headers={"Retry-After": "10"})
        case StoppedError() | CancelledError():
            return _failure(503, "the server is stopping", headers={"Retry-After": "10"})
        case _:
            logger.error("a request failed", exc_info=error)
            return _failure(500, "the server failed to draw this: its log tells why")


def _failure(
    status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Failure, dict[str, str]]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return status, Failure(error=Problem(message=message, type=kind, param=param)), headers or {}


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=499)  # nobody reads it; the metrics count it
    status, failure, headers = failure_of(error)
    return JSONResponse(failure.model_dump(), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Have ``app`` answer every error so."""
    kinds = (InputError, RequestValidationError, HTTPException, QueueFullError, StoppedError, TimeoutError)
    for kind in (*kinds, CancelledError, ClientGoneError, RuntimeError, Exception):
        app.add_exception_handler(kind, _answer)
