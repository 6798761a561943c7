"""Sampling: plans, orders, steps, the loop and its trace. A network is only a callable here."""

from vqdiff.sampling.guidance import Guidance, GuidanceKind
from vqdiff.sampling.loop import Batch, Canvas, Frame, run, sample
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep
from vqdiff.sampling.prediction import Denoise, Prediction, TwoStage
from vqdiff.sampling.random import uniforms
from vqdiff.sampling.revision import doubtful
from vqdiff.sampling.samplers import (
    PosteriorGuided,
    ReferenceFast,
    ReferenceReveal,
    Reveal,
    Sampler,
    StepInput,
    StepSettings,
    Strided,
    get_sampler,
    samplers,
)
from vqdiff.sampling.settings import SamplingSettings
from vqdiff.sampling.trace import Trace

__all__ = [
    "Batch",
    "Canvas",
    "Denoise",
    "Frame",
    "Guidance",
    "GuidanceKind",
    "Plan",
    "PlanInput",
    "PlanStep",
    "PosteriorGuided",
    "Prediction",
    "ReferenceFast",
    "ReferenceReveal",
    "Reveal",
    "Sampler",
    "SamplingSettings",
    "StepInput",
    "StepSettings",
    "Strided",
    "Trace",
    "TwoStage",
    "doubtful",
    "get_sampler",
    "run",
    "sample",
    "samplers",
    "uniforms",
]
