from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tiny_bench import TINY
from vqdiff.bench.sizes import TEXT_TOKENS, random_architecture, step_flops, write_random
from vqdiff.bench.training import step_flops as training_flops
from vqdiff.foundation.errors import InputError


def test_flops_of_a_step_are_those_of_its_products() -> None:
    model, L, D, N = TINY.build("meta"), 16, 32, TEXT_TOKENS
    layer = 4 * D * D + 2 * D * D + 8 * D * D + 2 * L * D + 2 * N * D  # attention to 16 tokens, to 77 words, MLP
    forth = 2 * L * (2 * layer + D * 30)
    assert step_flops(model, guided=False) == forth
    assert step_flops(model, guided=True) == 2 * forth
    text, times = 2 * N * 64 * 2 * D * 2, 100 * 2 * D * 2 * D * 4  # no gradient of the text; four norms of 100 times
    assert training_flops(TINY.denoiser, 3) == 3 * (3 * forth + 2 * text) + 3 * times


@pytest.mark.parametrize(("size", "parameters"), [("small", 18e6), ("coco", 389e6), ("ithq", 1359e6)])
def test_the_sizes_that_were_published(size: str, parameters: float) -> None:
    denoiser = random_architecture(size).build("meta").denoiser
    assert sum(weight.numel() for weight in denoiser.parameters()) == pytest.approx(parameters, rel=0.05)


def test_weights_that_have_no_room_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    with pytest.raises(InputError, match=r"no space for .* GB of random weights: set TMPDIR to another folder"):
        write_random(TINY, tmp_path, {"vqdiff": "float32"})
    assert not list(tmp_path.iterdir())
