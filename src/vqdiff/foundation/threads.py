"""The threads over which torch spreads its work on a CPU."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path

_SOFT = 1  # omp_pause_soft: keeps settings


def release_threads() -> None:
    """Release the worker threads of the calling thread; its next work starts new ones.

    Each Python thread that computes has its own. Those of GNU OpenMP spin between operations only while there are no
    more of them than processors: with the workers of another thread, all sleep in between, and an image takes twice as
    long. A server therefore releases them after each computation. With another OpenMP, nothing happens.
    """
    if (openmp := gnu_openmp()) is not None:
        openmp.omp_pause_resource_all(_SOFT)


@cache
def gnu_openmp() -> ctypes.CDLL | None:
    """The OpenMP library that is loaded, if it is GNU's."""
    with suppress(OSError, AttributeError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        found = next((line.split()[-1] for line in lines if "libgomp" in line), None)
        library = None if found is None else ctypes.CDLL(found)
        return library if library is not None and library.omp_pause_resource_all is not None else None
    return None
