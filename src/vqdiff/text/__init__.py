"""Conditions and their features: prompts, blends of two, frozen text encoders, and the null condition."""

from __future__ import annotations

from vqdiff.text.conditions import Blend, Condition, check_prompt, prompts_in
from vqdiff.text.encoders import AnyTextEncoder, ClipTextEncoder, TextEncoder, read_text_encoder
from vqdiff.text.null import NullCondition, NullConfig, NullKind
from vqdiff.text.weights import WeightedPrompt, literal, parse_weights, plain_text

__all__ = [
    "AnyTextEncoder",
    "Blend",
    "ClipTextEncoder",
    "Condition",
    "NullCondition",
    "NullConfig",
    "NullKind",
    "TextEncoder",
    "WeightedPrompt",
    "check_prompt",
    "literal",
    "parse_weights",
    "plain_text",
    "prompts_in",
    "read_text_encoder",
]
