"""Pictures and what is said about them, their tokens, and the emoji set that this project builds for itself."""

from __future__ import annotations

from vqdiff.data.pictures import PictureSet, load
from vqdiff.data.rows import Rows, emphasised, sampling_weights
from vqdiff.data.tokens import TokenSet, Views, tokenize

__all__ = ["PictureSet", "Rows", "TokenSet", "Views", "emphasised", "load", "sampling_weights", "tokenize"]
