"""Shape-typed annotations, e.g. ``Int[Tensor, "B L"]``.

They are jaxtyping's where a type checker reads them or jaxtyping is already imported (the tests do so and check
every call); otherwise they are inert, so that importing the mathematics needs torch alone.

Letters: B batch, L image tokens, K codes, D width, N text tokens, C text features, H W pixels.
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
