"""Data sets of images with captions and labels, and their tokens."""

from __future__ import annotations

from vqdiff.data.image_set import ImageSet, load
from vqdiff.data.rows import Rows, emphasised, sampling_weights
from vqdiff.data.tokens import TokenSet, Views, tokenize

__all__ = ["ImageSet", "Rows", "TokenSet", "Views", "emphasised", "load", "sampling_weights", "tokenize"]
