"""The tokens of a data set's images, made once and memory-mapped: the training data of a diffusion model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vqdiff.data.cache import RECORD_EVERY, Cache, make_cache, open_cache
from vqdiff.data.image_set import square
from vqdiff.data.rows import Rows, describe, join_tables
from vqdiff.data.sources import Source
from vqdiff.data.splits import HELD_OUT, called, find
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import to_pixels
from vqdiff.interfaces import ImageTokenizer

_SMALLEST_CROP = 0.8  # relative to the shorter side


@dataclass(frozen=True)
class Views:
    """The views of each image that are tokenized; training picks one at random each time."""

    flip: bool = False
    """Add the mirror image of each view."""
    crops: int = 1
    """Square crops of each image: the central one, then squares of 80 to 100 % of its side at random positions."""

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise InputError(f"crops is {self.crops}: it must be at least 1, the central square")

    def __len__(self) -> int:
        return self.crops * (1 + self.flip)

    def of(self, picture: Image.Image, name: str, size: int) -> NDArray[np.uint8]:
        """Each crop ``(size, size, 3)``, followed by its mirror image; the same for every call."""
        random = np.random.default_rng(zlib.crc32(name.encode()))
        views = list[Image.Image]()
        for crop in range(self.crops):
            view = square(picture if crop == 0 else _crop(picture, random), size)
            views += [view, ImageOps.mirror(view)] if self.flip else [view]
        return np.stack([np.asarray(view) for view in views])


def _crop(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    side = max(1, round(min(picture.size) * random.uniform(_SMALLEST_CROP, 1)))
    left, top = (int(random.integers(length - side + 1)) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


@dataclass(frozen=True, kw_only=True)
class TokenSet(Rows):
    """The tokens of one split with captions, labels and other columns."""

    tokens: NDArray[np.integer[Any]]
    """``(N, V, L)`` for V views of each image, view 0 being the image itself; int16 or int32, memory-mapped."""
    about: Mapping[str, Any]
    """What the tokens were made from: ``tokenizer`` and ``data`` (fingerprints), ``flip``, ``crops``, ``bf16`` …"""

    @classmethod
    def load(cls, folder: str | Path, split: str, class_names: tuple[str, ...] = ()) -> TokenSet:
        """Open what `tokenize` wrote; ``split`` and ``class_names`` are those of `vqdiff.data.load`.

        A single split is memory-mapped; several with the same prefix are read into memory.
        """
        splits = [path.parent.name for path in sorted(Path(folder).glob("*/about.json"))]
        caches = [cache for name in called(split, splits) if (cache := open_cache(Path(folder, name)))]
        if not caches:
            raise InputError(
                f"{folder} has no tokens of a split {split!r} (it has {', '.join(splits) or 'none'}): write them with "
                "`vqdiff data tokens`"
            )
        return _join(caches, class_names, f"{folder} {split}")

    def check_tokenizer(self, tokenizer: ImageTokenizer) -> None:
        """Raise InputError if these are not tokens of ``tokenizer``."""
        theirs, ours = self.about["tokenizer"], fingerprint(tokenizer)
        if theirs != ours:
            raise InputError(
                f"these are tokens of another image tokenizer ({theirs}, not {ours}): name the one they were made with "
                "or tokenize the images again with `vqdiff data tokens`"
            )


def tokenize(
    data: str | Path,
    split: str,
    tokenizer: ImageTokenizer,
    folder: str | Path,
    *,
    views: Views | None = None,
    bf16: bool = False,
    batch_size: int = 64,
    class_names: tuple[str, ...] = (),
    validation: float = HELD_OUT,
    limit: int | None = None,
    record_every: float = RECORD_EVERY,
) -> TokenSet:
    """Tokenize one split into ``folder/split`` and open it; if it is there already, only open it.

    Images are read, decoded, tokenized and written batch by batch, on the device of ``tokenizer``. An interrupted
    call continues where its progress was last recorded, which is done every ``record_every`` seconds. ``views`` may
    add mirror images and crops; ``bf16`` encodes in bfloat16, which changes a few tokens. The other arguments are those
    of `vqdiff.data.load`.

    Raises InputError if ``folder/split`` holds tokens of another tokenizer, of other images or of other views.
    """
    views = views or Views()
    source, size = find(data, split, validation, limit), tokenizer.config.image_size
    device = next((value.device for value in tokenizer.state_dict().values()), torch.device("cpu"))
    dtype = np.int16 if tokenizer.num_codes <= 2**15 else np.int32

    def encode(pictures: NDArray[np.uint8]) -> NDArray[Any]:
        pixels = to_pixels(pictures.reshape(-1, *pictures.shape[2:])).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            tokens = tokenizer.encode(pixels)
        return tokens.cpu().numpy().astype(dtype).reshape(*pictures.shape[:2], -1)

    cache = make_cache(
        Path(folder, split),
        source,
        _about(source, tokenizer, views, bf16),
        lambda picture, name: views.of(picture, name, size),
        encode,
        batch_size=max(1, batch_size // len(views)),
        description=f"Tokenizing {split}",
        record_every=record_every,
    )
    cache.warn(f"{data} {split}")
    return _join([cache], class_names, f"{data} {split}")


# So that tokens made when these buffers had other names still match their tokenizer.
_HASHED_AS = {"quantizer.cluster_size": "quantizer.usage", "quantizer.embed_avg": "quantizer.sums"}


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """Twelve hex digits of a hash of a tokenizer's configuration and weights."""
    config = {"class": type(tokenizer).__name__, **dataclasses.asdict(tokenizer.config)}
    if config.get("quantizer") == "vq":  # what there was before there was a choice
        del config["quantizer"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    state = {_HASHED_AS.get(name, name): value for name, value in tokenizer.state_dict().items()}
    for name, value in sorted(state.items()):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {value.dtype}".encode() + content.numpy().tobytes())
    return digest.hexdigest()[:12]


def _about(source: Source, tokenizer: ImageTokenizer, views: Views, bf16: bool) -> dict[str, Any]:
    return {
        "tokenizer": fingerprint(tokenizer),
        "data": source.origin,
        "image_size": tokenizer.config.image_size,
        "num_codes": tokenizer.num_codes,
        **dataclasses.asdict(views),
        "bf16": bf16,
    }


def _join(caches: Sequence[Cache], class_names: tuple[str, ...], where: str) -> TokenSet:
    if len({cache.about["tokenizer"] for cache in caches}) > 1:
        raise InputError(f"{where}: these splits hold tokens of different image tokenizers; use a single one")
    tokens = caches[0].array if len(caches) == 1 else np.concatenate([cache.array for cache in caches])
    fields = describe(join_tables([cache.table for cache in caches]), class_names or caches[0].class_names, where)
    return TokenSet(tokens=tokens, about=caches[0].about, **fields)
