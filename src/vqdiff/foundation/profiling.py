"""Cost of work on a device: seconds, memory, floating-point operations, and the peak rate of the device."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


def now(device: torch.device) -> float:
    """Seconds on a clock, after all work queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measure products of square matrices: flop/s, the best of a few in about a second.

    size: the side of a matrix; by default 8192 on CUDA, else 1024.
    """
    size, times = size or (8192 if device.type == "cuda" else 1024), list[float]()
    a = torch.randn(size, size, device=device).to(dtype)
    while len(times) < 2 or (len(times) < 6 and sum(times) < 1):  # the first warms up
        start = now(device)
        _ = a @ a
        times.append(now(device) - start)
    return 2 * size**3 / min(times)


def count_flops(work: Callable[[], object]) -> int:
    """Do the work and count the floating-point operations of its matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since `reset_peak_memory`: on CUDA of all tensors, on the CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # getrusage would include the parent process's peak
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_memory(device: torch.device) -> None:
    """Reset `peak_memory` to what is in use now; on the CPU, only Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(AttributeError):  # glibc only, which would otherwise keep freed memory
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # a container may forbid it
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
