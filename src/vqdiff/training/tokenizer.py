"""Stage one: train the image tokenizer on images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqdiff.data import HELD_OUT, ImageSet, check_share, emphasised, held_out_split, load
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.images import grid, to_pixels
from vqdiff.image_tokenizers import VQGAN, CompactConfig, CompactTokenizer, VQGANConfig, code_use
from vqdiff.image_tokenizers.losses import AdversarialConfig, PerceptualConfig, ReconstructionLoss, TokenizerObjective
from vqdiff.interfaces import ImageTokenizer
from vqdiff.metrics import frechet_distance, principal_directions, psnr, structural_similarity
from vqdiff.metrics.features import EfficientNetLite0
from vqdiff.model import load_component, save_component
from vqdiff.model.finding import find_part
from vqdiff.training.loop import RunConfig, train
from vqdiff.training.resuming import data_fingerprint
from vqdiff.training.validation import Criterion

_POOR_USE = 0.9
"""Share of the codes below which a line is printed."""
_TOKENS_PER_CODE = 20
"""So many tokens are needed to tell which codes are used: few images cannot use all of them."""


@dataclass(frozen=True)
class TokenizerTraining:
    """The settings of ``vqdiff train tokenizer``."""

    data: str | Path
    output: Path
    run: RunConfig
    model: CompactConfig = field(default_factory=CompactConfig)
    vqgan: VQGANConfig | None = None
    """Train the network of the published models instead of ``model``."""
    start: Path | None = None
    """Continue from this trained tokenizer, or that of a model, as `find_part` takes it, instead of ``model``."""
    grow: Path | None = None
    """Start from the weights of this smaller `CompactTokenizer` where layers match, counted from the tokens."""
    decoder_only: bool = False
    """Keep the tokens of ``start`` and train only the decoder, so that denoisers trained on these
    tokens remain valid."""
    loss: ReconstructionLoss = field(default_factory=ReconstructionLoss)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    flip: bool = True
    """Mirror half of the images."""
    emphasis: dict[str, dict[str, float]] = field(default_factory=dict)
    """Column → value → factor: how much more or less often than the set's weights say its rows are sampled."""
    held_out: str = ""
    """The split to measure on, or what several begin with; by default ``validation`` if there is one, else ``test``."""
    validation: float = HELD_OUT
    """The share of the images that is held out, if the set has no other split than train."""
    evaluate: int = 512
    """The largest number of held-out images to score."""

    def __post_init__(self) -> None:
        check_share(self.validation)
        if self.run.shard and self.adversarial.weight:
            raise InputError(
                "run.shard does not work with an adversarial term, which needs a whole layer: set it to false"
            )
        if self.decoder_only and self.start is None:
            raise InputError("decoder_only keeps the tokens of a trained tokenizer: name it with start")
        if self.grow is not None and (self.start is not None or self.vqgan is not None):
            raise InputError("grow starts a new compact tokenizer: leave out start and vqgan")

    def tokenizer(self) -> CompactTokenizer | VQGAN:
        """The network to train, in its initial state."""
        if self.start is not None:
            network: CompactTokenizer | VQGAN = load_component(find_part(self.start, "image_tokenizer"))
            network.requires_grad_(True)
            configured = self.vqgan or (self.model if self.model != CompactConfig() else network.config)
            if configured != network.config:
                raise InputError(f"{self.start} has other sizes than the configuration: leave out model and vqgan")
            if self.decoder_only:
                network.fix_tokens()
            return network
        if self.vqgan is not None:
            return VQGAN(self.vqgan)
        network = CompactTokenizer(self.model)
        if self.grow is not None:
            smaller = find_part(self.grow, "image_tokenizer")
            network.grow(load_component(smaller, {"CompactTokenizer": CompactTokenizer}))
        return network


class TokenizerTask:
    """Train a tokenizer to reconstruct images."""

    compiled = None
    criterion = Criterion("psnr", larger_is_better=True, like_loss=False)
    legend = (
        "loss: all terms, weighted, lower is better; psnr (dB), ssim: of reconstructions of held-out images, higher is "
        "better; codes_used: the share of the codebook they use, perplexity: how many codes, weighted by frequency"
    )

    def __init__(self, config: TokenizerTraining, *, cache: Path | None = None, limit: int | None = None) -> None:
        """``cache``: another folder for decoded images; ``limit``: how many images of each split to use at most."""
        self.config, self.trained = config, config.start is not None
        torch.manual_seed(config.run.seed)
        network = config.tokenizer()
        self.model: CompactTokenizer | VQGAN = network
        self.objective: nn.Module = TokenizerObjective(network, config.loss, config.perceptual, config.adversarial)
        self.learning_rates: Mapping[str, float] = {"discriminator.": config.adversarial.learning_rate}
        size = network.config.image_size
        splits = ("train", config.held_out or held_out_split(config.data))
        self.train_set, test_set = (
            load(config.data, split, size, validation=config.validation, cache=cache, limit=limit) for split in splits
        )
        self.data_fingerprint = data_fingerprint(self.train_set.pixels, self.train_set.captions, self.train_set.labels)
        self.weights = emphasised(self.train_set, config.emphasis)
        self.held_out = HeldOut(test_set, config.evaluate)

    def batch(self, step: int, share: slice) -> dict[str, Tensor]:
        random = np.random.default_rng((self.config.run.seed, step))
        rows = random.choice(len(self.train_set), self.config.run.batch_size, p=self.weights)
        flipped = random.random(len(rows)) < 0.5 * self.config.flip
        pixels = to_pixels(self.train_set.pixels[rows[share]])
        mirrored = torch.from_numpy(flipped[share])[:, None, None, None]
        return {"pixels": torch.where(mirrored, pixels.flip(3), pixels), "step": torch.tensor(step)}

    def evaluate(self, model: ImageTokenizer) -> dict[str, float]:
        scores = self.held_out.scores(model)
        if scores.get("codes_used", 1) < _POOR_USE:
            print(
                f"held-out images use {scores['codes_used']:.0%} of the codes: a smaller codebook would do as well",
                flush=True,
            )
        return scores

    def upkeep(self, model: ImageTokenizer) -> tuple[float, float]:
        pictures, start = self.held_out.pictures, time.monotonic()
        few = min(8, len(pictures))
        self.held_out.scores(model, few, few)
        each = (time.monotonic() - start) / few
        return each * len(pictures), each * min(24, len(pictures))

    @torch.no_grad()
    def preview(self, model: ImageTokenizer, path: Path) -> None:
        """Write up to 24 originals above their reconstructions, eight per row."""
        device, pictures = next(model.parameters()).device, self.held_out.pictures
        columns = min(8, len(pictures))
        count = min(24, len(pictures)) // columns * columns
        pixels = to_pixels(pictures[:: len(pictures) // count][:count])
        decoded = model.decode(model.encode(pixels.to(device))).cpu()
        rows = [row for pair in zip(pixels.split(columns), decoded.split(columns), strict=True) for row in pair]
        with atomic_path(path) as temporary:
            grid(torch.cat(rows), columns).save(temporary)

    def save(self, model: ImageTokenizer, folder: Path) -> None:
        # In the form of whole models, or tokens made with one would be rejected with the other.
        save_component(model, folder / "image_tokenizer", torch.float16)


class HeldOut:
    """Evenly spaced images of a split, and how well a tokenizer reconstructs them."""

    components = 64
    """Principal directions in which the Fréchet distance is computed, as in ``vqdiff evaluate``."""

    def __init__(self, pictures: ImageSet, count: int) -> None:
        rows = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).astype(int)
        self.pictures: NDArray[np.uint8] = pictures.pixels[rows]
        try:
            self.network = EfficientNetLite0()
        except InputError:
            self.network = None
            print("rfd_effnet is not measured, as it needs more packages: pip install 'vqdiff[eval]'", flush=True)

    @torch.no_grad()
    def scores(self, model: ImageTokenizer, batch_size: int = 64, count: int | None = None) -> dict[str, float]:
        """PSNR (dB) and SSIM after rounding to 8 bits, Fréchet distance to the originals, and codebook use.

        ``count`` limits the number of images. ``codes_used`` is left out if they have too few tokens to use all codes.
        ``rfd_effnet`` is in 64 principal directions of the originals' EfficientNet-Lite0 features, and is not FID. It
        is left out if the network's package is missing.
        """
        device = next(model.parameters()).device
        pixels, decoded, tokens = list[Tensor](), list[Tensor](), list[Tensor]()
        pictures = self.pictures[:count]
        for start in range(0, len(pictures), batch_size):
            pixels.append(to_pixels(pictures[start : start + batch_size]))
            tokens.append(model.encode(pixels[-1].to(device)))
            decoded.append((model.decode(tokens[-1]).float() * 255).round().cpu() / 255)
        codes = torch.cat(tokens)
        use = code_use(codes, model.num_codes)
        with torch.autocast("cpu", enabled=False):  # variances are small differences of large numbers
            fidelity = self._fidelity(pixels, decoded)
        used = {"codes_used": use.used} if codes.numel() >= _TOKENS_PER_CODE * model.num_codes else {}
        return fidelity | used | {"perplexity": use.perplexity}

    def _fidelity(self, pixels: list[Tensor], decoded: list[Tensor]) -> dict[str, float]:
        real, copies = torch.cat(pixels), torch.cat(decoded)
        scores = {"psnr": float(psnr(copies, real).mean()), "ssim": structural_similarity(copies, real)}
        if self.network is not None and len(real) > 1:
            near, far = (torch.cat([self.network(part).final for part in parts]) for parts in (pixels, decoded))
            directions = principal_directions(near, self.components).to(near)
            scores["rfd_effnet"] = frechet_distance(near @ directions.T, far @ directions.T)
        return scores


def train_tokenizer(config: TokenizerTraining, *, resume: bool = False, sanity: bool = False) -> None:
    """Train and write ``output/image_tokenizer``; see :func:`vqdiff.training.loop.train`."""
    if sanity:
        with TemporaryDirectory() as folder:
            path, few = Path(folder), config.run.batch_size
            train(lambda: TokenizerTask(config, cache=path / "images", limit=few), config.run, path, sanity=True)
        return
    train(lambda: TokenizerTask(config), config.run, config.output, resume=resume, settings=config)
