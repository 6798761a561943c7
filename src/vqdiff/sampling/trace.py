"""The record of a sampling run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.sampling.loop import Frame

__all__ = ["Trace"]


@dataclass(frozen=True)
class Trace:
    """All frames of a run, or some, stacked; S steps. The fields are those of `Frame`."""

    tokens: Int[Tensor, "S B L"]
    revealed: Bool[Tensor, "S B L"]
    confidence: Float[Tensor, "S B L"]

    @classmethod
    def collect(cls, frames: Iterable[Frame]) -> Trace:
        """Run the sampling to its end and stack its frames."""
        return cls.join([cls(frame.tokens[None], frame.revealed[None], frame.confidence[None]) for frame in frames])

    @classmethod
    def join(cls, parts: Sequence[Trace]) -> Trace:
        """Put the traces of consecutive steps together."""
        return cls(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "revealed", "confidence"))
        )

    @property
    def final(self) -> Int[Tensor, "B L"]:
        """The finished tokens."""
        return self.tokens[-1]

    def reveal_step(self) -> Int[Tensor, "B L"]:
        """Return in which step, 1..S, each position left MASK for good; 0 where it never was MASK."""
        step = torch.arange(1, len(self.revealed) + 1, device=self.revealed.device)[:, None, None]
        return (self.revealed * step).amax(0)
