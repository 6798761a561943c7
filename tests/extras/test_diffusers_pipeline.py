"""The custom pipeline, loaded by diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import vqdiff
from toy_pipelines import toy_pipeline
from vqdiff.pipeline import Pipeline

FILE = Path(__file__).parents[2] / "extras" / "diffusers" / "pipeline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy_pipeline().save(folder)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Pipeline]:
    """The folder as diffusers loads it, and as vqdiff does."""
    with pytest.MonkeyPatch.context() as patch:  # where diffusers keeps a copy of the file
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        pipe = DiffusionPipeline.from_pretrained(
            str(folder), custom_pipeline=str(FILE), trust_remote_code=True, device="cpu", precision="float32"
        )
    return pipe, vqdiff.load(folder, device="cpu", precision="float32")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [one.tobytes() for one in images]


def test_the_same_images_for_the_same_seed(both: tuple[Any, Pipeline]) -> None:
    pipe, wanted = both
    images = pipe(["2", "1"], num_images_per_prompt=2, generator=seeded(5)).images
    assert pixels(images) == pixels(wanted(["2", "1"], num_images=2, seed=5))
    images = pipe(
        "2", num_inference_steps=2, guidance_scale=2.0, negative_prompt="1", sampler="strided", generator=seeded(5)
    )
    assert pixels(images.images) == pixels(wanted("2", steps=2, guidance=2.0, negative="1", sampler="strided", seed=5))


def test_without_a_generator_the_seed_is_random(both: tuple[Any, Pipeline]) -> None:
    first, second = (both[0]("2").images for _ in range(2))
    assert pixels(first) != pixels(second)


def test_images_are_varied_and_edited(both: tuple[Any, Pipeline]) -> None:
    pipe, wanted = both
    image, mask = Image.effect_noise((32, 32), 50).convert("RGB"), Image.linear_gradient("L").resize((32, 32))
    varied = pipe("2", image=image, strength=0.4, generator=seeded(5)).images
    assert pixels(varied) == pixels(wanted.vary(image, 0.4, "2", seed=5))
    edited = pipe("2", image=image, mask_image=mask, num_images_per_prompt=2, generator=seeded(5)).images
    assert pixels(edited) == pixels([wanted.edit(image, mask, "2", seed=seed) for seed in (5, 6)])


def test_forms_of_the_output(both: tuple[Any, Pipeline]) -> None:
    pipe, wanted = both
    array = np.asarray(wanted("2", seed=5)[0], np.float32)[None] / 255
    np.testing.assert_array_equal(pipe("2", generator=seeded(5), output_type="np").images, array)
    (tensor,) = pipe("2", generator=seeded(5), output_type="pt", return_dict=False)
    assert tensor.shape == (1, 3, 32, 32)
    with pytest.raises(vqdiff.InputError, match="pil, np, pt"):
        pipe("2", output_type="latent")


def test_it_saves_what_vqdiff_loads(both: tuple[Any, Pipeline], tmp_path: Path) -> None:
    both[0].save_pretrained(tmp_path / "again")
    again = vqdiff.load(tmp_path / "again", device="cpu", precision="float32")
    assert pixels(again("2", seed=5)) == pixels(both[1]("2", seed=5))
