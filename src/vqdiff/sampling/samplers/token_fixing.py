"""Reveal, and in the same calls draw visible tokens anew that the network now finds unlikely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import draw_categorical, purity
from vqdiff.foundation.shapes import Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import Order, by_purity
from vqdiff.sampling.prediction import take
from vqdiff.sampling.reveal import Reveal, first_positions
from vqdiff.sampling.sampler import REVEALING, SamplerFacts, places_of
from vqdiff.sampling.step import StepInput

__all__ = ["TokenFixing"]


@dataclass(frozen=True)
class TokenFixing(Reveal):
    """As `Reveal`, and `fix_share` of the visible tokens, those of the lowest p(x0 = x_t | x_t), are drawn anew.

    The call that says which they are also says what they should be, so it costs nothing. For models that were trained
    with replace noise, which teaches that a visible token may be wrong; of others, see `least_confident`.
    """

    fixes: ClassVar[bool] = True
    order: Order = by_purity
    sharpened: bool = True

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        u_order, u = x.u
        prediction = x.prediction.at()
        purities = purity(prediction)
        first = first_positions(self._scores(x, purities, u_order), x.masked, x.now.most)
        wanted = torch.arange(x.now.most, device=first.device) < x.now.reveal[:, None]
        revealed = torch.zeros_like(x.masked).scatter(1, first, wanted) & x.masked
        own = prediction.gather(2, x.tokens.clamp(max=x.schedule.num_codes - 1)[..., None])[..., 0]
        visible = ~x.masked & ~x.known
        share = torch.zeros_like(purities[:, 0]) if x.settings.fix_share is None else x.settings.fix_share
        count = (share * visible.sum(1)).round().long()
        ranks = own.masked_fill(~visible, torch.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        drawn = revealed | (visible & (ranks < count[:, None]))
        at = places_of(drawn)
        log_p0 = self._sharpen(x, take(prediction, at), purities.gather(1, at))
        x0 = draw_categorical(log_p0, u.gather(1, at))
        return torch.where(drawn, x.tokens.scatter(1, at, x0), x.tokens)


_FACTS = SamplerFacts(
    "as purity, and visible tokens that the network now finds unlikely are drawn anew in the same calls",
    exact="no", uses=REVEALING | {"prior_scale", "purity_power", "fix_share"},
)  # fmt: skip
SAMPLERS.register("token-fixing", TokenFixing(facts=_FACTS))
