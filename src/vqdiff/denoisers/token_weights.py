"""The weights of text tokens: a token of weight w counts like w² copies of it, in attention and in the mean.

Copies, because scaled features would have no effect on a network that normalises them; a square, so that a weight of 2
shows. ``docs/equations.md`` has the measurements.
"""

from __future__ import annotations

from torch import Tensor

from vqdiff.foundation.shapes import Float


def split_weights(
    condition: Float[Tensor, "B N D"], width: int
) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"] | None]:
    """Split a condition into text features, C = ``width``, and the tokens' weights, None if it has no such column."""
    if condition.shape[-1] == width:
        return condition, None
    return condition[..., :width].contiguous(), condition[..., width].float()


def attention_bias(weights: Float[Tensor, "B N"]) -> Float[Tensor, "B 1 1 N"]:
    """Return what to add to the scores of the tokens' keys: the logarithm of the number of copies."""
    return 2 * weights.log()[:, None, None]
