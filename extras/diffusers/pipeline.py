"""A model folder of vqdiff as a pipeline of diffusers; see README.md beside this file."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

import vqdiff
from vqdiff.requests import EditRequest


class VQDiffPipeline(DiffusionPipeline):
    """Text → images, or with an image also its variations and, with a mask, edits; calls `vqdiff.Pipeline`.

    device, precision: as for `vqdiff.load`. The pipeline has no components: ``pipe.vqdiff`` is the `vqdiff.Pipeline`,
    and ``to(device)`` moves nothing.
    """

    vqdiff: vqdiff.Pipeline

    def __init__(self, device: str = "auto", precision: Any = "auto") -> None:
        super().__init__()
        self._load_options = {"device": device, "precision": precision}

    @classmethod
    def extract_init_dict(cls, config_dict: Any, **kwargs: Any) -> Any:
        """Take nothing from our model_index.json, which is no list of components."""
        del config_dict
        return super().extract_init_dict({}, **kwargs)

    def register_to_config(self, **kwargs: Any) -> None:
        """Load the model when `from_pretrained` says from where, which it does last."""
        super().register_to_config(**kwargs)
        if "_name_or_path" in kwargs:
            self.vqdiff = vqdiff.load(kwargs["_name_or_path"], **self._load_options)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model folder; the other arguments have no effect."""
        del args, kwargs
        self.vqdiff.save(save_directory)

    def __call__(
        self,
        prompt: Any = None,
        *,
        image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        strength: float = 0.5,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **settings: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images; image i has the generator's seed + i, and is the one that vqdiff generates from that seed.

        prompt: as for `vqdiff.Pipeline`; a list of them only without an image. image, strength: vary an image; with
        mask_image, resample its white part instead. num_inference_steps, guidance_scale: by default the model's own;
        the other sampling settings of vqdiff are arguments, too. generator: its initial seed is used; without one, a
        random seed. output_type: pil, np (B×H×W×3 in [0, 1]) or pt (B×3×H×W). Raises `vqdiff.InputError` for what
        vqdiff rejects.
        """
        seed = secrets.randbelow(2**32) if generator is None else generator.initial_seed()
        common: dict[str, Any] = {"negative": negative_prompt, "steps": num_inference_steps}
        common |= {"guidance": guidance_scale} | settings
        if image is None:
            images = self.vqdiff(prompt, num_images=num_images_per_prompt, seed=seed, **common)
        elif mask_image is None:
            images = self.vqdiff.vary(image, strength, prompt, num_images=num_images_per_prompt, seed=seed, **common)
        else:
            images = self.vqdiff.draw(
                EditRequest(
                    image=image,
                    mask=mask_image,
                    prompt=prompt,
                    negative=negative_prompt,
                    num_images=num_images_per_prompt,
                    seed=seed,
                    settings=self.vqdiff.settings(steps=num_inference_steps, guidance=guidance_scale, **settings),
                )
            )
        output = _converted(images, output_type)
        return ImagePipelineOutput(images=output) if return_dict else (output,)


def _converted(images: list[Image.Image], kind: str) -> Any:
    if kind == "pil":
        return images
    if kind not in ("np", "pt"):
        raise vqdiff.InputError(f"output_type is {kind!r}: choose one of pil, np, pt")
    array = np.stack([np.asarray(one, np.float32) / 255 for one in images])
    return array if kind == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)
