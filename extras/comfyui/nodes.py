"""The nodes, on the public Python API of vqdiff; images are tensors B×H×W×C in [0, 1], masks B×H×W, 1 for white."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

import vqdiff
from vqdiff.explanation import explain
from vqdiff.foundation.config import Precision
from vqdiff.foundation.options import Choice, Number, Option, Whole, options_of
from vqdiff.settings import EditOptions, ImagesOptions, SamplingSettings, VaryOptions

Inputs = dict[str, dict[str, tuple[Any, ...]]]
_LARGEST = 2**63 - 1


def widget(option: Option, default: Any, least: float | None = None, most: float | None = None) -> tuple[Any, ...]:
    """Return the input of an option: its choices or its bounds, its default and its help.

    least, most: bounds where the option has none.
    """
    if isinstance(option, Choice):
        return list(option.names()), {"default": default, "tooltip": option.help}
    assert isinstance(option, Number)
    low, high, step = (*option.range, 1)[:3]
    kind, number = ("INT", int) if isinstance(option, Whole) else ("FLOAT", float)
    bounds = {"min": number(low if least is None else least), "max": number(high if most is None else most)}
    return kind, {"default": number(default), **bounds, "step": number(step), "tooltip": option.help}


def _of(cls: type[Any], name: str, most: float | None = None) -> tuple[Any, ...]:
    return widget(options_of(cls)[name], getattr(cls(), name), most=most)


def _inputs(**more: tuple[Any, ...]) -> Inputs:
    """Return the inputs that all nodes have that generate images."""
    text = {"multiline": True, "tooltip": "What to generate; a label's number for a class-conditional model."}
    avoided = {"default": "", "multiline": True, "tooltip": "A prompt to guide away from; empty for none."}
    seed = ("INT", {"default": 0, "min": 0, "max": _LARGEST, "tooltip": options_of(ImagesOptions)["seed"].help})
    required = {"pipe": ("VQDIFF",), "prompt": ("STRING", text), "negative": ("STRING", avoided), "seed": seed}
    return {"required": required | more, "optional": {"settings": ("VQDIFF_SETTINGS",)}}


class Load:
    """Load a model."""

    CATEGORY, FUNCTION = "vqdiff", "load"
    RETURN_TYPES, RETURN_NAMES = ("VQDIFF",), ("pipe",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs, in ComfyUI's format."""
        tip = "A bundled model's name, a model, run or diffusers folder, an original checkpoint (.pth), or a Hub id."
        return {
            "required": {
                "model": ("STRING", {"default": "emoji", "tooltip": tip}),
                "device": (["auto", "cpu", "cuda", "mps"], {"default": "auto"}),
                "precision": (list(get_args(Precision)), {"default": "auto"}),
            }
        }

    def load(self, model: str, device: str, precision: Precision) -> tuple[vqdiff.Pipeline]:
        """Return the pipeline."""
        return (vqdiff.load(model, device=device, precision=precision),)


class Settings:
    """Sampling settings; without this node, they are the model's own."""

    CATEGORY, FUNCTION = "vqdiff", "settings"
    RETURN_TYPES, RETURN_NAMES = ("VQDIFF_SETTINGS",), ("settings",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs, in ComfyUI's format; an interval is two numbers."""
        own, inputs = SamplingSettings(), dict[str, tuple[Any, ...]]()
        for name, one in options_of(SamplingSettings).items():
            if name == "guidance_interval":
                fraction = {"min": 0.0, "max": 1.0, "step": 0.01, "tooltip": one.help}
                low, high = own.guidance_interval
                inputs["guide_from"] = ("FLOAT", {"default": low, **fraction})
                inputs["guide_to"] = ("FLOAT", {"default": high, **fraction})
            else:
                inputs[name] = widget(one, getattr(own, name), most=1024 if name == "steps" else None)
        return {"required": inputs}

    def settings(self, guide_from: float, guide_to: float, **settings: Any) -> tuple[dict[str, Any]]:
        """Return the settings as arguments of a pipeline."""
        return (settings | {"guidance_interval": (guide_from, guide_to)},)


class Draw:
    """Generate images from a prompt."""

    CATEGORY, FUNCTION = "vqdiff", "draw"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs, in ComfyUI's format."""
        return _inputs(num_images=_of(ImagesOptions, "num_images", most=256))

    def draw(
        self,
        pipe: vqdiff.Pipeline,
        prompt: str,
        negative: str,
        seed: int,
        num_images: int,
        settings: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor]:
        """Return the images; image i has seed + i."""
        given: dict[str, Any] = {"seed": seed, "negative": negative or None, **(settings or {})}
        return (to_tensor(pipe(prompt or None, num_images=num_images, **given)),)


class Edit:
    """Resample the white part of a mask, or without a mask vary the whole images."""

    CATEGORY, FUNCTION = "vqdiff", "edit"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs, in ComfyUI's format."""
        inputs = _inputs(
            images=("IMAGE",), feather=_of(EditOptions, "feather", most=256), strength=_of(VaryOptions, "strength")
        )
        inputs["optional"]["mask"] = ("MASK",)
        return inputs

    def edit(
        self,
        pipe: vqdiff.Pipeline,
        prompt: str,
        negative: str,
        seed: int,
        images: torch.Tensor,
        feather: int,
        strength: float,
        settings: dict[str, Any] | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """Return the images in their own size; image i has seed + i, and mask i, or the last one."""
        common: dict[str, Any] = {"negative": negative or None, **(settings or {})}
        masks = [] if mask is None else list(mask if mask.ndim == 3 else mask[None])
        edited = list[Image.Image]()
        for i, picture in enumerate(images):
            image = to_image(picture)
            if masks:
                white = to_image(masks[min(i, len(masks) - 1)])
                edited.append(pipe.edit(image, white, prompt or None, seed=seed + i, feather=feather, **common))
            else:
                edited += pipe.vary(image, strength, prompt or None, seed=seed + i, **common)
        return (to_tensor(edited),)


class Why:
    """Generate one image and show why it looks like this: order of reveal, confidence, and influence of the prompt."""

    CATEGORY, FUNCTION = "vqdiff", "why"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE", "STRING"), ("image", "maps", "numbers")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs, in ComfyUI's format."""
        return _inputs()

    def why(
        self, pipe: vqdiff.Pipeline, prompt: str, negative: str, seed: int, settings: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Return the image, its three maps side by side, and the same in numbers, as JSON."""
        given: dict[str, Any] = {"seed": seed, "negative": negative or None, **(settings or {})}
        explanation = explain(pipe, prompt or None, **given)
        return to_tensor([explanation.image]), to_tensor([explanation.maps()]), json.dumps(explanation.summary())


def to_tensor(images: list[Image.Image]) -> torch.Tensor:
    """Convert images of one size to a tensor B×H×W×3."""
    return torch.from_numpy(np.stack([np.asarray(one.convert("RGB"), np.float32) / 255 for one in images]))


def to_image(picture: torch.Tensor) -> Image.Image:
    """Convert a tensor H×W×C, or a mask H×W, to an image."""
    return Image.fromarray((picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())
