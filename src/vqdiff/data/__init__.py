"""Data sets of images with captions and labels, and their tokens."""

from __future__ import annotations

from vqdiff.data.image_set import ImageSet, load
from vqdiff.data.rows import Rows, emphasised, sampling_weights
from vqdiff.data.splits import HELD_OUT, check_share, held_out_split
from vqdiff.data.tokens import TokenSet, Views, tokenize

__all__ = [
    "HELD_OUT",
    "ImageSet",
    "Rows",
    "TokenSet",
    "Views",
    "check_share",
    "emphasised",
    "held_out_split",
    "load",
    "sampling_weights",
    "tokenize",
]
