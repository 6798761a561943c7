"""Speed and memory, ours beside others', in one run: see docs/performance.md."""

from typing import Literal

Size = Literal["emoji", "small", "coco", "ithq"]
Dtype = Literal["float32", "bfloat16"]
"""Of weights and matrix products, in any program."""
MeasuredPrecision = Dtype | Literal["int8"]
"""Of our network: each has a row in `vqdiff.bench.programs.PRECISIONS`."""
