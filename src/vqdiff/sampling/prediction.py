"""The network's prediction of the clean tokens, computed only at the positions where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from vqdiff.diffusion import guide, purity
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int
from vqdiff.sampling.guides import Away, Combine, Reference

__all__ = ["Apart", "Denoise", "PartlyGuided", "Prediction", "TwoStage", "WithReferences", "predict", "take"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(tokens (N, L), t (N,)) -> logits (N, L, K), with the conditions bound by the caller.

N is B in a step in which no image is guided, else 2B, of which the last B are to be predicted under the null condition.
One that is also `PartlyGuided` is asked for the null condition of the guided images only. Guides other than null need
one that is `WithReferences`. One with a true attribute `batch_invariant` promises that an image's logits are the same,
bit for bit, in any batch; then so are the sampled tokens.
"""


@runtime_checkable
class TwoStage(Protocol):
    """A `Denoise` that can also be called in two parts, so that its head is computed only where it is needed."""

    def features(self, tokens: Int[Tensor, "N L"], t: Int[Tensor, "N"]) -> Float[Tensor, "N L E"]:
        """Return the features of every position, before the head."""
        ...

    def logits(self, features: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows K"]:
        """Return the logits of x0 at some positions."""
        ...


@runtime_checkable
class PartlyGuided(Protocol):
    """A `Denoise` that need not predict under the null condition for images that are not guided in a step."""

    def guided(self, rows: Sequence[int]) -> Denoise:
        """Return the callable for a step in which these of the B images lead away from null: N is B + len(rows).

        The last rows are those of these images, in their order.
        """
        ...


@runtime_checkable
class WithReferences(Protocol):
    """A `Denoise` that has other predictions to lead away from than that under the null condition."""

    def reference(self, name: Reference, rows: Sequence[int]) -> Denoise:
        """Return the callable that makes one for these of the B images, in their order: N is len(rows)."""
        ...


class Apart(NamedTuple):
    """The predictions to lead some images away from, where these are not made together with the guided ones.

    rows: the numbers of the images. features: one (L, E) for each. head: features -> logits.
    """

    rows: tuple[int, ...]
    features: Float[Tensor, "N L E"]
    head: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """log p(x0 | x_t, condition), guided, computed where it is needed.

    features: (B + N, L, E), the last N under the null condition. head: features -> logits. scale: of guidance, one per
    image; None if no image is guided. guided: the numbers of the G guided images, rising. apart: what some of them are
    led away from; the other N are from null. combine: how, for each of the guided ones; by default as `guide`.
    """

    features: Float[Tensor, "N L E"]
    head: Callable[[Tensor], Tensor]
    scale: Float[Tensor, "B"] | None
    guided: tuple[int, ...] = ()
    apart: tuple[Apart, ...] = ()
    combine: tuple[Combine, ...] = ()

    @torch.no_grad()
    def at(self, positions: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B M K"]:
        """Return the guided log-probabilities at M positions of each image, or at all L."""
        cond, others = self._logits(positions)
        if self.scale is None:
            return cond.float().log_softmax(-1)
        if len(others) == len(cond):
            return self._combined(cond, others, self.scale)
        rows = _index(self.guided, cond.device)
        guided = self._combined(cond[rows], others, self.scale[rows])
        return cond.float().log_softmax(-1).to(guided.dtype).index_copy(0, rows, guided)

    def _combined(self, cond: Tensor, others: Tensor, scale: Tensor) -> Float[Tensor, "G M K"]:
        """Return the guided log-probabilities of the guided images."""
        kinds = dict.fromkeys(self.combine or (guide,))
        if len(kinds) == 1:
            return next(iter(kinds))(cond, others, scale)
        found: list[Tensor] = [
            kind(*(one[i : i + 1] for one in (cond, others, scale))) for i, kind in enumerate(self.combine)
        ]
        return torch.cat(found)

    @torch.no_grad()
    def pair(self, positions: Int[Tensor, "B M"] | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits given the condition, and those that guidance leads away from.

        The latter are those given the null condition, with the guide null; the former again for images not guided.
        """
        cond, others = self._logits(positions)
        return cond, cond.index_copy(0, _index(self.guided, cond.device), others.to(cond))

    @property
    def _null(self) -> tuple[int, ...]:
        """The numbers of the images that are led away from the prediction under the null condition."""
        elsewhere = {row for one in self.apart for row in one.rows}
        return tuple(row for row in self.guided if row not in elsewhere)

    def _logits(self, positions: Int[Tensor, "B M"] | None) -> tuple[Tensor, Tensor]:
        """Return the logits given the condition, of all images, and those that the guided ones are led away from."""
        features, null = self.features, self._null
        if positions is not None:
            both = torch.cat([positions, positions[_index(null, positions.device)]])
            features = take(features, both)
        logits, num_images = self.head(features), len(features) - len(null)
        cond, others = logits[:num_images], logits[num_images:]
        if not self.apart:
            return cond, others
        found = dict(zip(null, others, strict=True))
        for one in self.apart:
            wanted = one.features
            if positions is not None:
                wanted = take(wanted, positions[_index(one.rows, positions.device)])
            found |= dict(zip(one.rows, one.head(wanted), strict=True))
        return cond, torch.stack([found[row] for row in self.guided])

    def select(self, image: int) -> Prediction:
        """Return the prediction for one image."""
        own = self.features[image : image + 1]
        if image not in self.guided or self.scale is None:
            return Prediction(own, self.head, None)
        scale, combine = self.scale[image : image + 1], self.combine and (self.combine[self.guided.index(image)],)
        for one in self.apart:
            if image in one.rows:
                part = Apart((0,), one.features[[one.rows.index(image)]], one.head)
                return Prediction(own, self.head, scale, (0,), (part,), combine)
        null = len(self.features) - len(self._null) + self._null.index(image)
        return Prediction(self.features[[image, null]], self.head, scale, (0,), combine=combine)

    @torch.no_grad()
    def distance(self, image: int, positions: Int[Tensor, "M"]) -> float:
        """Return how far an image's prediction and that which it is led away from are apart: a distance from 0 to 1.

        It is the mean of their total variation distances at some positions. The host waits for it.
        """
        cond, other = (one.double().softmax(-1) for one in self.select(image).pair(positions[None]))
        return float((cond - other).abs().sum(-1).mean() / 2)

    def confidence(self) -> Float[Tensor, "B L"]:
        """Return the purity of every position, in (0, 1], before truncation and sharpening."""
        return purity(self.at())


def predict(
    denoise: Denoise,
    tokens: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    scale: Float[Tensor, "B"] | None,
    led: Mapping[int, Away] | None = None,
) -> Prediction:
    """Evaluate the network, and what guidance leads away from for the images that it leads.

    led: by the numbers of the images whose scale is not 1, rising, known to the host; by default all from null, if
    there is a scale.

    Raises InputError if the denoiser has no such prediction.
    """
    num_images = len(tokens)
    if led is None or scale is None:
        led = {} if scale is None else dict.fromkeys(range(num_images), Away())
    rows = {name: tuple(row for row, one in led.items() if one.reference == name) for name in get_args(Reference)}
    apart = tuple(_apart(denoise, name, rows[name], tokens, t) for name in rows if name != "null" and rows[name])
    asked = null = rows["null"]
    if 0 < len(null) < num_images:
        if isinstance(denoise, PartlyGuided):
            denoise = denoise.guided(null)
        else:
            asked = tuple(range(num_images))
    if asked:
        both = torch.cat([torch.arange(num_images), torch.tensor(asked)]).to(tokens.device, non_blocking=True)
        tokens, t = tokens[both], t[both]
    features, head = _evaluated(denoise, tokens, t)
    if asked != null:
        features = features[[*range(num_images), *(num_images + row for row in null)]]
    return Prediction(
        features, head, scale if led else None, tuple(led), apart, tuple(one.combine for one in led.values())
    )


def _apart(denoise: Denoise, name: Reference, rows: tuple[int, ...], tokens: Tensor, t: Tensor) -> Apart:
    if not isinstance(denoise, WithReferences):
        raise InputError(f"this denoiser has no prediction {name!r} to lead away from: use the guide null")
    index = _index(rows, tokens.device)
    return Apart(rows, *_evaluated(denoise.reference(name, rows), tokens[index], t[index]))


def _evaluated(denoise: Denoise, tokens: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the features, and the head that makes logits of them."""
    if isinstance(denoise, TwoStage):
        return denoise.features(tokens, t), denoise.logits
    return denoise(tokens, t), _already_logits


def _index(rows: Sequence[int], device: torch.device) -> Int[Tensor, "N"]:
    return torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)


def take(x: Float[Tensor, "N L E"], positions: Int[Tensor, "N M"]) -> Float[Tensor, "N M E"]:
    """Return the vectors at M positions of each row, copied whole, which is much faster than with `gather`.

    The positions may be on another device.
    """
    first = x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
    return (
        x.flatten(0, 1).index_select(0, (positions.to(x.device) + first).flatten()).view(*positions.shape, x.shape[2])
    )


def _already_logits(features: Tensor) -> Tensor:
    return features
