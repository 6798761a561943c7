"""ComfyUI's nodes, loaded by path as ComfyUI loads them, and called with what it passes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vqdiff
from toy_pipelines import toy_pipeline
from vqdiff.foundation.options import Number, options_of
from vqdiff.pipeline import Pipeline
from vqdiff.settings import SamplingSettings

FOLDER = Path(__file__).parents[2] / "extras" / "comfyui"
COMMON: dict[str, Any] = {"prompt": "2", "negative": "", "seed": 5}


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("vqdiff_nodes", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    assert package.NODE_DISPLAY_NAME_MAPPINGS.keys() == package.NODE_CLASS_MAPPINGS.keys()
    return {name.removeprefix("VQDiff"): one for name, one in package.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture(scope="module")
def toy() -> Pipeline:
    return toy_pipeline()


def run(node: Any, **given: Any) -> Any:
    """What ComfyUI does: create the node and call its function with values of its inputs."""
    inputs = node.INPUT_TYPES()
    assert given.keys() >= inputs["required"].keys()
    assert given.keys() <= {name for kind in inputs.values() for name in kind}
    outputs = getattr(node(), node.FUNCTION)(**given)
    assert len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return outputs


def tensor_of(*images: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(one, np.float32) / 255 for one in images]))


def default_of(input: tuple[Any, ...]) -> Any:
    return input[1]["default"]


def test_bounds_and_defaults_are_those_of_the_settings(nodes: dict[str, Any]) -> None:
    inputs = nodes["Settings"].INPUT_TYPES()["required"]
    for name, one in options_of(SamplingSettings).items():
        if name == "guidance_interval":
            continue
        kind, shown = inputs[name]
        assert shown["default"] == getattr(SamplingSettings(), name)
        assert shown["tooltip"] == one.help
        if isinstance(one, Number):
            assert kind == ("INT" if one.type is int else "FLOAT")
            for bound in (shown["min"], shown["max"]):  # within what is allowed
                SamplingSettings(**{name: bound})
            assert shown["min"] == one.range[0]
        else:
            assert kind == list(one.names())
    (settings,) = run(nodes["Settings"], **{name: default_of(one) for name, one in inputs.items()})
    assert SamplingSettings(**settings) == SamplingSettings()
    strength = nodes["Edit"].INPUT_TYPES()["required"]["strength"]
    assert (strength[1]["min"], strength[1]["max"], strength[1]["default"]) == (0, 1, 0.5)


def test_load(nodes: dict[str, Any], toy: Pipeline, tmp_path: Path) -> None:
    toy.save(tmp_path / "toy")
    (pipe,) = run(nodes["Load"], model=str(tmp_path / "toy"), device="cpu", precision="float32")
    assert pipe.model.num_tokens == 64
    assert [default_of(one) for one in nodes["Load"].INPUT_TYPES()["required"].values()] == ["emoji", "auto", "auto"]


def test_draw(nodes: dict[str, Any], toy: Pipeline) -> None:
    (images,) = run(nodes["Draw"], pipe=toy, num_images=2, **COMMON)
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), torch.float32)
    torch.testing.assert_close(images, tensor_of(*toy("2", num_images=2, seed=5)))
    settings = {"steps": 2, "guidance": 2.0}
    (images,) = run(nodes["Draw"], pipe=toy, num_images=1, settings=settings, **COMMON | {"negative": "1"})
    torch.testing.assert_close(images, tensor_of(*toy("2", negative="1", seed=5, steps=2, guidance=2.0)))


def test_edit(nodes: dict[str, Any], toy: Pipeline) -> None:
    first, second = (Image.effect_noise((32, 24), 50).convert("RGB") for _ in range(2))
    mask = torch.zeros(24, 32)
    mask[:12, 8:] = 1
    given = {"pipe": toy, "images": tensor_of(first, second), "feather": 2, "strength": 0.4} | COMMON
    white = Image.fromarray((mask * 255).to(torch.uint8).numpy())
    wanted = [toy.edit(one, white, "2", seed=seed, feather=2) for one, seed in ((first, 5), (second, 6))]
    for masks in (mask, mask[None]):
        torch.testing.assert_close(run(nodes["Edit"], mask=masks, **given)[0], tensor_of(*wanted))
    varied = [toy.vary(one, 0.4, "2", seed=seed)[0] for one, seed in ((first, 5), (second, 6))]
    torch.testing.assert_close(run(nodes["Edit"], **given)[0], tensor_of(*varied))


def test_why(nodes: dict[str, Any], toy: Pipeline) -> None:
    image, maps, numbers = run(nodes["Why"], pipe=toy, **COMMON)
    torch.testing.assert_close(image, tensor_of(*toy("2", seed=5)))
    assert maps.shape[0] == 1
    assert maps.shape[2] > 3 * 32
    assert len(json.loads(numbers)["steps"]) == 4


def test_mistakes_are_vqdiffs(nodes: dict[str, Any], toy: Pipeline) -> None:
    with pytest.raises(vqdiff.InputError, match="no prompt"):
        run(nodes["Draw"], pipe=toy, num_images=1, **COMMON | {"prompt": ""})
