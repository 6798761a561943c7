"""Where a model runs, and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import has_bf16_units


def auto_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """What "auto" stands for: bfloat16 where the device has units for its products, else float32."""
    return "bfloat16" if has_bf16_units(device) else "float32"


def pick_device(name: str) -> torch.device:
    """The torch device called ``name``; "auto" is CUDA if there, else the CPU. InputError if it is not there.

    Sampling draws in float64, which Apple's GPUs lack: "mps" is refused.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("mps"):
        raise InputError("the device 'mps' has no float64, which sampling needs: use cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} is not there: use cpu or auto ({str(error).splitlines()[0]})") from error
    return device
