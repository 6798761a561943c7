"""Recorded inputs and outputs of the published program, in ``tests/golden``.

In the files, steps count from 0 (ours, less one), classes come before positions, and the mask is the last class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
Case = dict[str, Any]
_CASES: list[Case] = json.loads((GOLDEN / "manifest.json").read_text())["cases"]


def cases(group: str) -> list[Case]:
    """The cases of a group that record tensors."""
    return [case for case in _CASES if case["group"] == group and case["file"]]


def load(case: Case | str) -> dict[str, Tensor]:
    """The tensors of a case, given as itself or by its name: inputs ``in/...``, outputs ``exp/...``."""
    if isinstance(case, str):
        case = next(candidate for candidate in _CASES if candidate["case"] == case)
    return load_file(GOLDEN / case["file"])
