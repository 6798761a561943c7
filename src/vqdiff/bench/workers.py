"""Programs in their own processes that work in turns: never two at once, so that neither slows the other down."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.progress import track

Turn = Callable[[], None]
"""Called by a program before each part of its work: signals that it is ready, and returns when it may continue."""

_PATIENCE = 2.0  # seconds to wait for a program to end by itself
_PAUSE = 0.005  # seconds between turns, in which threads come to rest
_Message = tuple[Literal["turn", "result", "refused", "failed"], Any]


class Worker:
    """A program in a fresh process, with its own memory and threads; ends with its ``with`` block.

    ``make(*arguments)`` makes the program there, and must be picklable. An InputError in the program is raised here.
    """

    def __init__(self, name: str, make: Callable[..., object], *arguments: object) -> None:
        context = get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is detected here
        self._answer: _Message = ("turn", None)
        self._receive()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # the program ends when it next listens
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the program and return its result."""
        self._send((method, arguments, False))
        return self._result()

    def start(self, method: str, *arguments: object) -> None:
        """Call a method that takes a `Turn` as its last argument, up to its first turn."""
        self._send((method, arguments, True))

    def go(self) -> None:
        """Let the program work until its next turn, or its end."""
        assert self._answer[0] == "turn", f"{self.name} has no more turns"
        self._send(None)

    def _result(self) -> Any:
        kind, value = self._answer
        assert kind == "result", f"{self.name} is not done"
        return value

    def _send(self, message: object) -> None:
        self._pipe.send(message)
        self._receive()

    def _receive(self) -> None:
        try:
            self._answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise InputError(
                f"the process of {self.name} was killed (exit code {self._process.exitcode}), as happens when memory "
                "runs out: choose a smaller --size or --batch"
            ) from None
        kind, value = self._answer
        if kind == "refused":
            raise InputError(value)
        if kind == "failed":
            raise RuntimeError(f"{self.name} failed:\n{value}")


def take_turns(workers: Sequence[Worker], method: str, task: object, turns: int, description: str) -> list[Any]:
    """Run ``method(task, turn)`` of each program, one turn at a time, and return the results."""
    for worker in workers:
        worker.start(method, task)
    for _ in track(range(turns), description, turns):
        for worker in workers:
            time.sleep(_PAUSE)
            worker.go()
    return [worker._result() for worker in workers]


def _serve(pipe: Connection, make: Callable[..., object], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process

    def turn() -> None:
        pipe.send(("turn", None))
        pipe.recv()

    try:
        program = make(*arguments)
        pipe.send(("result", None))
        while True:
            method, arguments, in_turns = pipe.recv()
            pipe.send(("result", getattr(program, method)(*arguments, *([turn] if in_turns else []))))
    except InputError as error:
        pipe.send(("refused", str(error)))
    except EOFError:
        pass  # the parent is gone
    except Exception:
        pipe.send(("failed", traceback.format_exc()))
