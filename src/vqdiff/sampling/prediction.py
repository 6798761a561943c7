"""The network's prediction of the clean tokens, computed only at the positions where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from vqdiff.diffusion import guide, purity
from vqdiff.foundation.shapes import Float, Int

__all__ = ["Denoise", "PartlyGuided", "Prediction", "TwoStage", "predict", "take"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(tokens (N, L), t (N,)) -> logits (N, L, K), with the conditions bound by the caller.

N is B in a step in which no image is guided, else 2B, of which the last B are to be predicted under the null condition.
One that is also `PartlyGuided` is asked for the null condition of the guided images only. One with a true attribute
`batch_invariant` promises that an image's logits are the same, bit for bit, in any batch; then so are the sampled
tokens.
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
        """Return the callable for a step in which these of the B images are guided: N is B + len(rows).

        The last rows are those of the guided images, in their order.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """log p(x0 | x_t, condition), guided, computed where it is needed.

    features: (B + G, L, E), the last under the null condition. head: features -> logits. scale: of guidance, one per
    image; None if no image is guided. guided: the numbers of the G guided images, rising.
    """

    features: Float[Tensor, "N L E"]
    head: Callable[[Tensor], Tensor]
    scale: Float[Tensor, "B"] | None
    guided: tuple[int, ...] = ()

    @torch.no_grad()
    def at(self, positions: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B M K"]:
        """Return the guided log-probabilities at M positions of each image, or at all L."""
        cond, null = self._logits(positions)
        if self.scale is None:
            return cond.float().log_softmax(-1)
        if len(null) == len(cond):
            return guide(cond, null, self.scale)
        rows = _index(self.guided, cond.device)
        guided = guide(cond[rows], null, self.scale[rows])
        return cond.float().log_softmax(-1).to(guided.dtype).index_copy(0, rows, guided)

    @torch.no_grad()
    def pair(self, positions: Int[Tensor, "B M"] | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits given the condition and the null condition; twice the former for images not guided."""
        cond, null = self._logits(positions)
        return cond, cond.index_copy(0, _index(self.guided, cond.device), null)

    def _logits(self, positions: Int[Tensor, "B M"] | None) -> tuple[Tensor, Tensor]:
        """Return the logits given the condition, of all images, and given the null condition, of the guided ones."""
        features, num_guided = self.features, len(self.guided)
        if positions is not None:
            both = torch.cat([positions, positions[_index(self.guided, positions.device)]])
            features = take(features, both)
        logits, num_images = self.head(features), len(features) - num_guided
        return logits[:num_images], logits[num_images:]

    def select(self, image: int) -> Prediction:
        """Return the prediction for one image."""
        if image not in self.guided or self.scale is None:
            return Prediction(self.features[image : image + 1], self.head, None)
        null = len(self.features) - len(self.guided) + self.guided.index(image)
        return Prediction(self.features[[image, null]], self.head, self.scale[image : image + 1], (0,))

    @torch.no_grad()
    def distance(self, image: int, positions: Int[Tensor, "M"]) -> float:
        """Return how much the condition of an image matters at some positions: a distance from 0 to 1.

        It is the mean total variation distance of the predictions given the condition and given the null condition. The
        host waits for it.
        """
        cond, null = (one.double().softmax(-1) for one in self.select(image).pair(positions[None]))
        return float((cond - null).abs().sum(-1).mean() / 2)

    def confidence(self) -> Float[Tensor, "B L"]:
        """Return the purity of every position, in (0, 1], before truncation and sharpening."""
        return purity(self.at())


def predict(
    denoise: Denoise,
    tokens: Int[Tensor, "B L"],
    t: Int[Tensor, "B"],
    scale: Float[Tensor, "B"] | None,
    guided: Sequence[int] | None = None,
) -> Prediction:
    """Evaluate the network, also under the null condition where `scale` guides away from it.

    guided: the numbers of the images whose scale is not 1, known to the host; by default all, if there is a scale.
    """
    num_images = len(tokens)
    rows = () if scale is None else tuple(range(num_images) if guided is None else guided)
    asked = rows
    if 0 < len(rows) < num_images:
        if isinstance(denoise, PartlyGuided):
            denoise = denoise.guided(rows)
        else:
            asked = tuple(range(num_images))
    if asked:
        both = torch.cat([torch.arange(num_images), torch.tensor(asked)]).to(tokens.device, non_blocking=True)
        tokens, t = tokens[both], t[both]
    two_stage = isinstance(denoise, TwoStage)
    features = denoise.features(tokens, t) if two_stage else denoise(tokens, t)
    if asked != rows:
        features = features[[*range(num_images), *(num_images + row for row in rows)]]
    return Prediction(features, denoise.logits if two_stage else _already_logits, scale if rows else None, rows)


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
