"""Sampling: plans, orders, steps, the loop and its trace. Here, a network is just a callable."""

from vqdiff.sampling.loop import Batch, Canvas, Frame, run, sample
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep
from vqdiff.sampling.prediction import Denoise, Prediction, TwoStage
from vqdiff.sampling.random import uniforms
from vqdiff.sampling.revision import least_confident
from vqdiff.sampling.samplers import (
    Corrected,
    EntropyBound,
    PosteriorGuided,
    ReferenceFast,
    ReferenceReveal,
    Reveal,
    Sampler,
    Strided,
    get_sampler,
    samplers,
)
from vqdiff.sampling.step import StepInput, StepSettings
from vqdiff.sampling.trace import Trace
from vqdiff.settings import Guidance, GuidanceSchedule, SamplingSettings, SettingChanges

__all__ = [
    "Batch",
    "Canvas",
    "Corrected",
    "Denoise",
    "EntropyBound",
    "Frame",
    "Guidance",
    "GuidanceSchedule",
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
    "SettingChanges",
    "StepInput",
    "StepSettings",
    "Strided",
    "Trace",
    "TwoStage",
    "get_sampler",
    "least_confident",
    "run",
    "sample",
    "samplers",
    "uniforms",
]
