"""A denoiser with its conditions prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vqdiff.denoisers.layers import aligned
from vqdiff.interfaces import Denoiser, PreparedCondition


@dataclass(frozen=True)
class BoundDenoiser:
    """A denoiser and the prepared conditions of a batch of images (a `TwoStage` `Denoise`); see `Model.bind`.

    Like the rows of a `Batch`, conditions may leave (`select`) and join (`join`) between two steps.
    """

    denoiser: Denoiser
    num_images: int | None
    """B; None for an unconditional model, which has no rows of conditions."""
    condition: PreparedCondition | None
    """None only for an unconditional model."""
    null: PreparedCondition | None = None
    batch_invariant: bool = False
    """Whether the prediction for an image must not depend on the batch, not even by rounding."""
    device: torch.device | None = None
    """Where the networks are, if that is not where images are sampled: tokens are sent there, and logits back."""

    def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
        return self.logits(self.features(tokens, t))

    def features(self, tokens: Tensor, t: Tensor) -> Tensor:
        """Return the denoiser's features of every position."""
        if self.device is not None:
            tokens, t = tokens.to(self.device), t.to(self.device)
        guided = self.null is not None and len(tokens) != self.num_images
        condition = self._both if guided else self.condition
        if not self._one_by_one or len(tokens) == 1:
            return self.denoiser.features(tokens, t, condition)
        rows = [None if condition is None else condition.one(row) for row in range(len(tokens))]
        return torch.cat([self.denoiser.features(*one) for one in zip(tokens.split(1), t.split(1), rows, strict=True)])

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of x0 at positions with these features, (B, M, E) or (M, E)."""
        if not self._one_by_one or features.ndim == 2:
            logits = self.denoiser.logits(features)
        else:
            logits = torch.cat([self.denoiser.logits(aligned(one)) for one in features.split(1)])
        return logits if self.device is None else logits.cpu()

    @property
    def _one_by_one(self) -> bool:
        """Whether to call the denoiser with one image at a time."""
        return self.batch_invariant and not getattr(self.denoiser, "batch_invariant", False)

    @cached_property
    def _both(self) -> PreparedCondition | None:
        return _joined(self.condition, self.null)

    def guided(self, rows: Sequence[int]) -> BoundDenoiser:
        """Return this with the null condition of these rows only; see `vqdiff.sampling.PartlyGuided`."""
        if self.num_images is None or self.null is None:
            return self
        if self._partly.get("rows") != tuple(rows):  # consecutive steps mostly guide the same rows
            self._partly.update(rows=tuple(rows), bound=replace(self, null=self.null.select(rows)))
        return self._partly["bound"]

    @cached_property
    def _partly(self) -> dict[str, Any]:
        """What `guided` returned last."""
        return {}

    def select(self, rows: Sequence[int]) -> BoundDenoiser:
        """Return the conditions of these rows, in this order."""
        if self.num_images is None:
            return self
        condition, null = (None if one is None else one.select(rows) for one in (self.condition, self.null))
        return replace(self, num_images=len(rows), condition=condition, null=null)

    def join(self, other: BoundDenoiser) -> BoundDenoiser:
        """Append the conditions of `other`, which has the same denoiser and also a null, or none if this has none."""
        if self.num_images is None or other.num_images is None:
            return self
        condition, null = _joined(self.condition, other.condition), _joined(self.null, other.null)
        return replace(self, num_images=self.num_images + other.num_images, condition=condition, null=null)


def _joined(first: PreparedCondition | None, second: PreparedCondition | None) -> PreparedCondition | None:
    return first if first is None or second is None else first.join(second)
