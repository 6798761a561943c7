"""The mathematics of discrete diffusion with mask-and-replace noise; needs only torch.

Notation: tokens are int64 of shape (B, L) with values 0..K-1, and K is MASK; t = 0 is clean, t = T all noise, s < t.
Predictions have shape (B, L, K), codes last. Papers: VQ-Diffusion, arXiv 2111.14822, and Improved VQ-Diffusion,
arXiv 2205.16007. Every random draw has two forms: with a `generator`, and as a pure function of uniforms.
"""

from vqdiff.diffusion.correction import leave_one_out, token_log_probs
from vqdiff.diffusion.guidance import guide, guide_posterior, purity, sharpen, temper, truncate
from vqdiff.diffusion.loss import DiffusionLoss, LossHistory, diffusion_loss
from vqdiff.diffusion.posterior import (
    Bridge,
    bridge,
    draw_categorical,
    draw_posterior,
    posterior_log_probs,
    sample_posterior,
)
from vqdiff.diffusion.schedule import Coefficients, Schedule, draw_forward, q_sample

__all__ = [
    "Bridge",
    "Coefficients",
    "DiffusionLoss",
    "LossHistory",
    "Schedule",
    "bridge",
    "diffusion_loss",
    "draw_categorical",
    "draw_forward",
    "draw_posterior",
    "guide",
    "guide_posterior",
    "leave_one_out",
    "posterior_log_probs",
    "purity",
    "q_sample",
    "sample_posterior",
    "sharpen",
    "temper",
    "token_log_probs",
    "truncate",
]
