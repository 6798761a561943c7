"""Shape-typed annotations, e.g. ``Int[Tensor, "B L"]``.

They are jaxtyping's for a type checker, or if jaxtyping is already imported (as in the tests, which check every
call); otherwise they are inert, so that importing the mathematics requires only torch.

Letters: B batch, L image tokens, K codes, D width, N text tokens, C text feature width, H W pixels.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, Shaped
else:

    class _Unchecked:
        def __class_getitem__(cls, item: Any) -> Any:
            return item[0]

    Bool = Float = Int = Shaped = _Unchecked

__all__ = ["Bool", "Float", "Int", "Shaped"]
