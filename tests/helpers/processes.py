"""Processes for tests, forked from one that has imported and nothing else.

What has computed has threads, and locks that they hold: forked from that, a process may wait for them for ever.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT: Any = multiprocessing.get_context(_METHOD)
_CONTEXT.set_forkserver_preload(["processes", "vqdiff.training.diffusion"])


def started(target: Callable[..., object], *arguments: object, **options: object) -> BaseProcess:
    """A process that calls ``target``, which must be importable, and that ends with this one at the latest."""
    process = _CONTEXT.Process(target=_call, args=(target, arguments, options), daemon=True)
    process.start()
    return process


def exit_codes(processes: Sequence[BaseProcess], seconds: float = 240) -> list[int | None]:
    """What the processes end with, when all have; those that don't end in time are killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _call(target: Callable[..., object], arguments: Sequence[object], options: dict[str, object]) -> None:
    torch.set_num_threads(1)  # as in the tests themselves
    target(*arguments, **options)
