"""The network's prediction of the clean tokens, computed only at the positions where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from vqdiff.diffusion import guide, purity
from vqdiff.foundation.shapes import Float, Int

__all__ = ["Denoise", "Prediction", "TwoStage", "predict", "take"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(tokens (N, L), t (N,)) -> logits (N, L, K), with the conditions bound by the caller.

N is B in a step in which no image is guided, else 2B, of which the last B are to be predicted under the null condition.
One with a true attribute `batch_invariant` promises that an image's logits are the same, bit for bit, in any batch;
then so are the sampled tokens.
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


@dataclass(frozen=True)
class Prediction:
    """log p(x0 | x_t, condition), guided, computed where it is needed.

    features: (N, L, E), N as for `Denoise`. head: features -> logits. scale: of guidance, one per image; None if no
    image is guided.
    """

    features: Float[Tensor, "N L E"]
    head: Callable[[Tensor], Tensor]
    scale: Float[Tensor, "B"] | None

    @torch.no_grad()
    def at(self, positions: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B M K"]:
        """Return the guided log-probabilities at M positions of each image, or at all L."""
        cond, null = self.pair(positions)
        return cond.float().log_softmax(-1) if self.scale is None else guide(cond, null, self.scale)

    @torch.no_grad()
    def pair(self, positions: Int[Tensor, "B M"] | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits given the condition and the null condition; twice the former if no image is guided."""
        features = self.features
        if positions is not None:
            features = take(features, positions if self.scale is None else positions.repeat(2, 1))
        logits = self.head(features)
        if self.scale is None:
            return logits, logits
        cond, null = logits.chunk(2)
        return cond, null

    def select(self, image: int, *, guided: bool) -> Prediction:
        """Return the prediction for one image; if it is not guided, as if no image were."""
        if self.scale is None or not guided:
            return Prediction(self.features[image : image + 1], self.head, None)
        both = self.features[[image, len(self.scale) + image]]
        return Prediction(both, self.head, self.scale[image : image + 1])

    def confidence(self) -> Float[Tensor, "B L"]:
        """Return the purity of every position, in (0, 1], before truncation and sharpening."""
        return purity(self.at())


def predict(
    denoise: Denoise, tokens: Int[Tensor, "B L"], t: Int[Tensor, "B"], scale: Float[Tensor, "B"] | None
) -> Prediction:
    """Evaluate the network, also under the null condition where `scale` guides away from it."""
    if scale is not None:
        tokens, t = tokens.repeat(2, 1), t.repeat(2)
    if isinstance(denoise, TwoStage):
        return Prediction(denoise.features(tokens, t), denoise.logits, scale)
    return Prediction(denoise(tokens, t), _already_logits, scale)


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
