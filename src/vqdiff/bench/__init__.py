"""Measure speed and memory of this package, and of others for comparison: see docs/performance.md."""

from typing import Literal

Size = Literal["emoji", "small", "coco", "ithq"]
Dtype = Literal["float32", "bfloat16"]
"""The dtype of weights and matrix products, in any program."""
MeasuredPrecision = Dtype | Literal["int8"]
"""A precision of our network; each has a row in `vqdiff.bench.programs.PRECISIONS`."""
