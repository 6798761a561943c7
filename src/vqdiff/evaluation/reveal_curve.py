"""Measure what the reveal curve `measured` is made from: the cross-entropy of masked tokens (equations, section 17)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vqdiff.data import ImageSet
from vqdiff.data.rows import captioned
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import batches
from vqdiff.foundation.shapes import Int
from vqdiff.model import Model
from vqdiff.sampling.curves import remaining
from vqdiff.sampling.measured import checked_masked_nll, nats, token_nll
from vqdiff.sampling.plan import masked_step
from vqdiff.sampling.prediction import Denoise, predict
from vqdiff.text import Condition, literal

__all__ = ["losses", "measure_masked_nll", "rising"]

_SHARES = 32
_BATCH = 8

Track = Callable[[Sequence[int]], Iterable[int]]
"""Iterates over the first images of batches, and shows the progress."""


@torch.inference_mode()
def measure_masked_nll(model: Model, images: ImageSet, count: int, track: Track = iter) -> tuple[float, ...]:
    """Return `Model.masked_nll` from ``count`` of the images, evenly spaced, without guidance, under their conditions.

    Each image's tokens are masked in an order that is random, but the same in every call: the first, the first 1/32, …,
    all. What is measured may fall a little by chance, and is made rising.

    Raises InputError for fewer images than that, for images without the conditions that the model takes, and for a
    schedule without masks.
    """
    if model.schedule.gamma_bar_ends[1] == 0:
        raise InputError("this model's schedule has no masks (gamma_bar is 0), so no sampler reveals tokens")
    if not 1 <= count <= len(images):
        raise InputError(f"{count} images are to be measured, and there are {len(images)}: give another number")
    rows = [round(one) for one in np.linspace(0, len(images) - 1, count).tolist()]
    conditions, encode = _conditions(model, images, rows), model.image_tokenizer.encode
    x0 = torch.cat([encode(pixels.to(model.device)).cpu() for pixels in batches(images.pixels[rows])])
    random = torch.Generator().manual_seed(0)
    order = torch.rand(x0.shape, generator=random).argsort(1)
    total, tokens = np.zeros(_SHARES + 1), np.zeros(_SHARES + 1)
    for start in track(range(0, count, _BATCH)):
        here = slice(start, start + _BATCH)
        denoise = model.bind(model.encode(None if conditions is None else conditions[here]))
        cost = partial(_cross_entropy, denoise, model, x0[here].to(model.sampling_device))
        for share, part in _maskings(order[here].to(model.sampling_device)):
            total[share] += cost(part)
            tokens[share] += part.numel()
    found = rising((total / tokens).tolist(), tokens.tolist())
    return checked_masked_nll([round(one, 6) for one in found], "the measurement")


def _conditions(model: Model, images: ImageSet, rows: list[int]) -> list[Condition] | None:
    if (encoder := model.text_encoder) is not None:
        captions = captioned(images).captions
        return [literal(encoder.fit(captions[row][0])) for row in rows]
    if model.num_classes is None:
        return None
    images.require_labels()
    assert images.labels is not None
    return [int(images.labels[row]) for row in rows]


def _maskings(order: Int[Tensor, "B L"]) -> Iterable[tuple[int, Int[Tensor, "B M"]]]:
    """Yield positions to mask, with the number of 1/32 that they are: 0 for single ones, as many as are in 1/32."""
    num_tokens = order.shape[1]
    counts = [max(1, round(num_tokens * share / _SHARES)) for share in range(_SHARES + 1)]
    yield from ((0, order[:, one : one + 1]) for one in range(counts[1]))
    yield from ((share, order[:, : counts[share]]) for share in range(1, _SHARES + 1))


def _cross_entropy(denoise: Denoise, model: Model, x0: Int[Tensor, "B L"], masked: Int[Tensor, "B M"]) -> float:
    """Return −Σ log p(x0 | x_t) over the positions that are masked, in nats; all others are clean."""
    seen = x0.scatter(1, masked, model.schedule.num_codes)
    share = torch.full((len(x0),), masked.shape[1] / x0.shape[1], dtype=torch.float64, device=x0.device)
    log_p0 = predict(denoise, seen, masked_step(model.schedule, share), None).at(masked)
    return -float(log_p0.gather(-1, x0.gather(1, masked)[..., None]).double().sum())


def rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the rising values that are nearest, by weighted squares: those that fall become their mean."""
    parts = list[tuple[float, float, int]]()
    for value, weight in zip(values, weights, strict=True):
        mean, total, number = value, weight, 1
        while parts and parts[-1][0] >= mean:
            before, own, more = parts.pop()
            mean, total, number = (before * own + mean * total) / (own + total), own + total, number + more
        parts.append((mean, total, number))
    return [mean for mean, _, number in parts for _ in range(number)]


def losses(masked_nll: tuple[float, ...], num_tokens: int, steps: int) -> dict[str, float]:
    """Return the nats that some curves lose in so many steps by sampling the tokens of a step apart."""
    alone = float(token_nll(masked_nll, num_tokens)[1:].sum())
    counts = torch.tensor([num_tokens]), torch.tensor([steps])
    cuts = {name: remaining(*counts, [(name, 2.0)], masked_nll, num_tokens)[0].tolist() for name in _COMPARED}
    return {name: nats(one, masked_nll, num_tokens) - alone for name, one in cuts.items()}


_COMPARED = ("linear", "cosine", "arccos", "measured")
