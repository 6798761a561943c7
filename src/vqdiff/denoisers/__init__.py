"""Networks that predict x0 from x_t: ``(tokens (B, L), t (B,), condition) -> logits (B, L, K)``."""

from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.denoisers.modern import ModernConfig, ModernDenoiser

__all__ = ["ClassicConfig", "ClassicDenoiser", "ModernConfig", "ModernDenoiser"]
