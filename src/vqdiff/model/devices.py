"""Where a model runs, and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import has_bf16_units


def auto_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision for "auto": bfloat16 if the device has units for it, else float32."""
    return "bfloat16" if has_bf16_units(device) else "float32"


def pick_device(name: str) -> torch.device:
    """Return the torch device ``name``; "auto" is CUDA if available, else the CPU.

    "mps", Apple's GPU, is never chosen by "auto": it has not been tried on that hardware.

    Raises InputError if it is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} is not there: use cpu or auto") from error
    return device


def with_float64(device: torch.device) -> torch.device:
    """Return ``device`` if it has float64, which sampling and the training loss need, else the CPU.

    The GPUs of Apple, and some others, lack it.
    """
    return device if device.type in _WITH_FLOAT64 else torch.device("cpu")


_WITH_FLOAT64 = ("cpu", "cuda", "meta")
