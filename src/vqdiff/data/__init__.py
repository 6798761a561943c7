"""Pictures with captions: any folder of them, and the emoji set that this project builds for itself."""

from __future__ import annotations

from vqdiff.data.pictures import PictureSet, load, sampling_weights

__all__ = ["PictureSet", "load", "sampling_weights"]
