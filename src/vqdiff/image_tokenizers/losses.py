"""The loss of an image tokenizer: reconstruction, perceptual and adversarial terms.

The adversarial term has the adaptive weight of VQGAN (Esser et al. 2021, arXiv 2012.09841).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int
from vqdiff.image_tokenizers.distributed import all_mean
from vqdiff.image_tokenizers.quantizers import code_use
from vqdiff.interfaces import TrainableTokenizer
from vqdiff.metrics import psnr
from vqdiff.metrics.features import EfficientNetLite0


@dataclass(frozen=True)
class ReconstructionLoss:
    """Weights of the terms on pixels in [0, 1]."""

    absolute: float = 1.0
    squared: float = 2.0
    gradient: float = 0.5
    """On horizontal and vertical differences of neighbouring pixels: keeps edges sharp."""

    def __call__(self, decoded: Float[Tensor, "B 3 H W"], pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        error = decoded - pixels
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        return self.absolute * error.abs().mean() + self.squared * error.square().mean() + self.gradient * gradient


@dataclass(frozen=True)
class PerceptualConfig:
    """The frozen network whose features of decoded and original images should agree."""

    weight: float = 0.0
    """0: no perceptual term."""
    network: Path | None = None
    """A TorchScript file: pixels ``(B, 3, H, W)`` in [0, 1] → one or several feature maps. By default
    EfficientNet-Lite0, whose weights come with a package."""
    size: int | None = None
    """Images are averaged down to this many pixels per side before the network."""


class EfficientNetMaps(nn.Module):
    """The last feature maps of EfficientNet-Lite0 at strides 2, 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0()

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return self.network.maps(pixels, (0, 2, 4, 10))


class PerceptualDistance(nn.Module):
    """Squared differences of features that are normalised to unit length at every position, as in LPIPS.

    Zhang et al. 2018, arXiv 1801.03924, without learned weights: the mean over positions, summed over maps.

    Raises InputError if the network cannot be read, or the package with the default one is missing.
    """

    def __init__(self, network: Path | None = None) -> None:
        super().__init__()
        self.network = EfficientNetMaps() if network is None else _torchscript(network)
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode: neither the network nor its statistics are trained."""
        del mode
        return super().train(False)

    def forward(self, decoded: Float[Tensor, "B 3 H W"], pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        with torch.no_grad():
            theirs = self._features(pixels)
        pairs = zip(self._features(decoded), theirs, strict=True)
        return torch.stack([(ours - their).square().sum(1).mean() for ours, their in pairs]).sum()

    def _features(self, pixels: Tensor) -> list[Tensor]:
        maps = self.network(pixels)
        return [F.normalize(one.float(), dim=1) for one in ([maps] if isinstance(maps, Tensor) else maps)]


def _torchscript(file: Path) -> nn.Module:
    try:
        return torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{file} is not a TorchScript file: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator, which learns to tell decoded patches from real ones, and its loss."""

    weight: float = 0.0
    """Weight of the term, multiplied by the adaptive weight; 0: no discriminator."""
    start: int = 0
    """Step at which the discriminator starts to be trained."""
    ramp: int = 1000
    """Steps from there over which the weight rises to its value, as an untrained discriminator is uninformative."""
    channels: int = 64
    levels: int = 3
    """Halvings of the image; each score is for a patch about 5 · 2^levels pixels wide."""
    crop: int | None = None
    """Side of the square crop, at one random position, that the discriminator sees; the whole image if None."""
    learning_rate: float = 0.5
    """The discriminator's learning rate, as a factor on that of the run."""


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches: > 0 looks real (Isola et al. 2017, arXiv 1611.07004).

    Group instead of batch normalisation, so that an image's score does not depend on the others in its batch.
    """

    def __init__(self, channels: int = 64, levels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1)]
        width = channels
        for level in range(1, levels):
            wider = channels * min(2**level, 8)
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(width, wider, 4, stride=2, padding=1), nn.GroupNorm(8, wider)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 h w"]:
        return self.layers(pixels * 2 - 1).float()

    def frozen(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 h w"]:
        """The same scores; their gradient reaches the pixels but not the weights."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (pixels,))


def hinge_loss(real: Tensor, decoded: Tensor) -> Float[Tensor, ""]:
    """The discriminator's loss: 0 if it scores real patches above 1 and decoded ones below −1."""
    return (F.relu(1 - real).mean() + F.relu(1 + decoded).mean()) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor, most: float = 1e4) -> Float[Tensor, ""]:
    """The weight at which the adversarial gradient is as large as that of reconstruction (VQGAN, Eq. 7).

    The ratio of both gradients' norms at the weight ``last``, at most ``most``. The gradients are those of the batches
    of all processes, so all compute the same weight. It is treated as a constant.
    """
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    wanted, other = (all_mean(gradient.float()).norm() for gradient in gradients)
    return (wanted / (other + 1e-4)).clamp(0, most)


class TokenizerObjective(nn.Module):
    """The loss of an image tokenizer and, from its start on, of the discriminator; one backward pass trains both.

    Neither receives the other's gradients: the discriminator's weights are fixed in the tokenizer's term, and the
    decoded images in the discriminator's. ``tokenizer(pixels)`` gives a `Reconstruction`, ``tokenizer.last_layer`` is
    the weight that `adaptive_weight` uses.
    """

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        reconstruction: ReconstructionLoss,
        perceptual: PerceptualConfig,
        adversarial: AdversarialConfig,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.reconstruction, self.perceptual, self.adversarial = reconstruction, perceptual, adversarial
        self.distance = PerceptualDistance(perceptual.network) if perceptual.weight else None
        self.discriminator = (
            PatchDiscriminator(adversarial.channels, adversarial.levels) if adversarial.weight else None
        )

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], step: Int[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss at a step, and the metrics to log."""
        out = self.tokenizer(pixels)
        loss = self.reconstruction(out.pixels, pixels)
        with torch.no_grad():
            use = code_use(out.tokens, self.tokenizer.num_codes)
            metrics = {"psnr": psnr(out.pixels, pixels).mean(), "perplexity": loss.new_tensor(use.perplexity)}
        if self.distance is not None:
            distance = self.distance(*(_reduced(one, self.perceptual.size) for one in (out.pixels, pixels)))
            metrics["perceptual"] = distance.detach()
            loss = loss + self.perceptual.weight * distance
        if self.discriminator is not None:
            since = int(step) - self.adversarial.start
            if since >= 0:
                share = min(1.0, since / max(1, self.adversarial.ramp))
                seen = _cropped((out.pixels, pixels), self.adversarial.crop, int(step))
                loss = self._contest(self.discriminator, loss, *seen, share, metrics)
            else:  # a gradient of zero for every weight, as DDP waits for all of them
                loss = loss + 0 * _sum(self.discriminator.parameters())
        return loss + out.loss, metrics

    def _contest(
        self,
        discriminator: PatchDiscriminator,
        loss: Tensor,
        decoded: Tensor,
        pixels: Tensor,
        share: float,
        metrics: dict[str, Tensor],
    ) -> Tensor:
        """Add the adversarial terms of both networks to the reconstruction ``loss``."""
        deceived = -discriminator.frozen(decoded).mean()
        weight = self.adversarial.weight * share * adaptive_weight(loss, deceived, self.tokenizer.last_layer)
        scores = discriminator(torch.cat([pixels, decoded.detach()])).chunk(2)
        critic = hinge_loss(*scores)
        metrics |= {"adversarial": deceived.detach(), "adversarial_weight": weight, "critic": critic.detach()}
        return loss + weight * deceived + critic


def _reduced(pixels: Float[Tensor, "B 3 H W"], size: int | None) -> Float[Tensor, "B 3 h w"]:
    return pixels if size is None else F.adaptive_avg_pool2d(pixels, size)


def _cropped(images: tuple[Tensor, Tensor], size: int | None, step: int) -> tuple[Tensor, Tensor]:
    """Cut the same square out of both, at a position that is a function of the step."""
    side = images[0].shape[-1]
    if size is None or size >= side:
        return images
    top, left = torch.randint(side - size + 1, (2,), generator=torch.Generator().manual_seed(step)).tolist()
    decoded, pixels = (image[..., top : top + size, left : left + size] for image in images)
    return decoded, pixels


def _sum(parameters: Iterable[nn.Parameter]) -> Tensor:
    return torch.stack([parameter.sum() for parameter in parameters]).sum()
