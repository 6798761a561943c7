"""Devices without float64, such as Apple's GPUs: the networks run there, and nothing else.

No such device is needed: torch is told of one that is made of the CPU and refuses tensors of float64.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from toy_pipelines import toy_pipeline
from vqdiff.foundation.errors import InputError
from vqdiff.model.devices import pick_device, with_float64

HELPERS = Path(__file__).parents[1] / "helpers"


def session(which: str) -> dict[str, Any]:
    """What came of `no_float64_session`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HELPERS / "no_float64_session.py"), which]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=500)
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_images_are_those_of_the_cpu(which: str) -> None:
    """Bit for bit, as the device rounds like the CPU: the random numbers, and what is made of them, are the CPU's."""
    found = session(which)
    for attempt in ("creating", "converting", "sending"):
        assert found["checks"][attempt] == "a tensor of float64 on a device that has no float64"
    assert found["checks"]["mixing"].endswith("tensors of two devices")
    assert all(count > 100 for count in found["operations"].values())  # the networks did run there
    assert len(found["here"]) == (66 if which == "all" else 14)
    for name, images in found["there"].items():
        assert isinstance(images, list), f"{name}: {images}"
        assert images == found["here"][name], name


@pytest.mark.parametrize(
    ("networks", "samples"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu"), ("xpu", "cpu"), ("meta", "meta")]
)
def test_where_images_are_sampled(networks: str, samples: str) -> None:
    assert with_float64(torch.device(networks)) == torch.device(samples)


def test_nothing_is_sent_on_a_cpu() -> None:
    assert toy_pipeline().model.bind(torch.tensor([1])).device is None


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="says what happens without one")
def test_no_apple_gpu() -> None:
    with pytest.raises(InputError, match=r"the device 'mps' is not there: use cpu or auto$"):
        pick_device("mps")
