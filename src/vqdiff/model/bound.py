"""A denoiser with its conditions prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vqdiff.denoisers.layers import aligned
from vqdiff.foundation.errors import InputError
from vqdiff.interfaces import Denoiser, PreparedCondition
from vqdiff.model.references import skipping_layers
from vqdiff.sampling import Reference


@dataclass(frozen=True)
class SomePrepared:
    """What a denoiser has prepared for some of the images of a batch, whose numbers are ``rows``, rising."""

    denoiser: Denoiser
    rows: tuple[int, ...]
    condition: PreparedCondition | None
    """None only for an unconditional model."""

    def of(self, rows: Sequence[int]) -> PreparedCondition | None:
        """Return what belongs to these images, in this order; all must be among ``rows``."""
        places = [self.rows.index(row) for row in rows]
        return None if self.condition is None else self.condition.select(places)

    def select(self, rows: Sequence[int]) -> SomePrepared | None:
        """Return what belongs to a batch of these images, in this order; None if it belongs to none of them."""
        kept = {new: row for new, row in enumerate(rows) if row in self.rows}
        return replace(self, rows=tuple(kept), condition=self.of([*kept.values()])) if kept else None


def _joined(first: SomePrepared | None, second: SomePrepared | None, shift: int) -> SomePrepared | None:
    """Return both; the images of the second come after ``shift`` others."""
    if second is None:
        return first
    rows = tuple(row + shift for row in second.rows)
    if first is None:
        return replace(second, rows=rows)
    return replace(first, rows=first.rows + rows, condition=_both(first.condition, second.condition))


def _both(first: PreparedCondition | None, second: PreparedCondition | None) -> PreparedCondition | None:
    return first if first is None or second is None else first.join(second)


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
    null: SomePrepared | None = None
    """The null condition of the images that guidance leads away from it."""
    weaker: SomePrepared | None = None
    """The weaker denoiser, with the conditions of the images that guidance leads away from it."""
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
        condition = self._with_null if guided else self.condition
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
    def _with_null(self) -> PreparedCondition | None:
        return _both(self.condition, None if self.null is None else self.null.condition)

    def guided(self, rows: Sequence[int]) -> BoundDenoiser:
        """Return this with the null condition of these rows only; see `vqdiff.sampling.PartlyGuided`."""
        if self.num_images is None or self.null is None:
            return self
        if self._last.get("null", (None,))[0] != tuple(rows):  # consecutive steps mostly guide the same rows
            null = replace(self.null, rows=tuple(rows), condition=self.null.of(rows))
            self._last["null"] = (tuple(rows), replace(self, null=null))
        return self._last["null"][1]

    def reference(self, name: Reference, rows: Sequence[int]) -> BoundDenoiser:
        """Return what makes another prediction for these rows; see `vqdiff.sampling.WithReferences`.

        Raises InputError if the model has no such prediction, or was not bound for it.
        """
        if self._last.get(name, (None,))[0] != tuple(rows):
            source = self.weaker if name == "weaker" else self._skipping
            if source is None:
                raise InputError(f"this denoiser was bound without {name!r} to lead away from")
            condition = source.condition if self.num_images is None else source.of(rows)
            num_images = None if self.num_images is None else len(rows)
            made = replace(
                self, denoiser=source.denoiser, num_images=num_images, condition=condition, null=None, weaker=None
            )
            self._last[name] = (tuple(rows), made)
        return self._last[name][1]

    @cached_property
    def _last(self) -> dict[Reference, tuple[tuple[int, ...], BoundDenoiser]]:
        """The rows that `guided` and `reference` were last called with, and what they returned."""
        return {}

    @property
    def _skipping(self) -> SomePrepared | None:
        """The denoiser without its middle layers, which takes the same prepared conditions."""
        denoiser = skipping_layers(self.denoiser)
        return None if denoiser is None else SomePrepared(denoiser, tuple(range(self.num_images or 0)), self.condition)

    def select(self, rows: Sequence[int]) -> BoundDenoiser:
        """Return the conditions of these rows, in this order."""
        if self.num_images is None:
            return self
        condition = None if self.condition is None else self.condition.select(rows)
        null, weaker = (None if one is None else one.select(rows) for one in (self.null, self.weaker))
        return replace(self, num_images=len(rows), condition=condition, null=null, weaker=weaker)

    def join(self, other: BoundDenoiser) -> BoundDenoiser:
        """Append the conditions of `other`, which has the same denoiser."""
        if self.num_images is None or other.num_images is None:
            return self if other.weaker is None else other
        null, weaker = (
            _joined(*pair, self.num_images) for pair in ((self.null, other.null), (self.weaker, other.weaker))
        )
        condition = _both(self.condition, other.condition)
        return replace(
            self, num_images=self.num_images + other.num_images, condition=condition, null=null, weaker=weaker
        )
