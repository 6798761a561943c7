"""How long a whole run takes, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Duration:
    """The parts of a run, in seconds."""

    preparing: float
    """Decoding and tokenizing images, encoding captions, compiling."""
    training: float
    measuring: float
    """Held-out scores and previews."""

    def __str__(self) -> str:
        parts = {
            "to prepare": self.preparing,
            "to train": self.training,
            "for held-out scores and previews": self.measuring,
        }
        listed = ", ".join(f"{in_words(seconds)} {what}" for what, seconds in parts.items())
        return f"about {in_words(sum(parts.values()))} in all: {listed}"


def in_words(seconds: int | float) -> str:
    """A duration to two digits or so: 40 s, 14 minutes, 2 h 20 min, 3.1 days."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} minutes"
    if minutes < 60 * 48:
        return f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
    return f"{minutes / 60 / 24:.1f} days"
