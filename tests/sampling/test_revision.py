"""What a perfect denoiser doubts, with and without replace noise."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.sampling import least_confident

EXAMPLE = Path(__file__).parents[2] / "examples" / "joint_distribution.py"


@pytest.fixture(scope="module")
def oracle() -> Any:
    return runpy.run_path(str(EXAMPLE))["oracle"]


TOKENS = torch.tensor([[0, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize("share", [0.25, 0.3])
def test_replace_noise_finds_the_odd_one(share: float, oracle: Any) -> None:
    """Data AAAA and BBBB: of AABA the B is wrong."""
    schedule = Schedule.paper(100, 2)
    denoise = oracle(schedule, torch.tensor([[0] * 4, [1] * 4]), torch.tensor([0.5, 0.5]).double())
    assert least_confident(denoise, schedule, TOKENS, share).int().argmax(1).tolist() == [2, 3, 0]
    assert least_confident(denoise, schedule, TOKENS, share).sum(1).tolist() == [1, 1, 1]


def test_nothing_all_and_nonsense(oracle: Any) -> None:
    schedule = Schedule.paper(100, 2)
    denoise = oracle(schedule, torch.tensor([[0] * 4, [1] * 4]), torch.tensor([0.5, 0.5]).double())
    assert not least_confident(denoise, schedule, TOKENS, 0.0).any()
    assert least_confident(denoise, schedule, TOKENS, 1.0).all()
    with pytest.raises(InputError, match=r"share is 1\.1"):
        least_confident(denoise, schedule, TOKENS, 1.1)
