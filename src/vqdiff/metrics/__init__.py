"""Scores of images, of sets of images, and of images with their captions."""

from __future__ import annotations

from vqdiff.metrics.scores import (
    Manifold,
    diversity,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    principal_directions,
    psnr,
    retrieved,
    structural_similarity,
    text_score,
)
from vqdiff.metrics.statistics import Estimate, differ, summary

__all__ = [
    "Estimate",
    "Manifold",
    "differ",
    "diversity",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "manifold",
    "principal_directions",
    "psnr",
    "retrieved",
    "structural_similarity",
    "summary",
    "text_score",
]
