"""The threads that torch spreads its work over on a CPU."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_SOFT = 1  # omp_pause_soft: what is set stays


def release_threads() -> None:
    """Let go of the threads that the calling thread's work was spread over; the next work starts new ones.

    Each Python thread that computes has its own. GNU OpenMP's wait for the next operation awake only as long as there
    are no more of them than processors: beside the threads of another, all fall asleep in between, and a picture takes
    twice as long. Whoever has computed something in a server therefore lets go. Nothing happens with another OpenMP.
    """
    if (openmp := _gnu_openmp()) is not None:
        openmp.omp_pause_resource_all(_SOFT)


@cache
def _gnu_openmp() -> Any | None:
    """The library that is loaded already, if it is that one."""
    with suppress(OSError, AttributeError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        found = next((line.split()[-1] for line in lines if "libgomp" in line), None)
        library = None if found is None else ctypes.CDLL(found)
        return library if library is not None and library.omp_pause_resource_all is not None else None
    return None
