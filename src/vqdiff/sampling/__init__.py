"""Sampling: plans, orders, steps, the loop and its trace. Here, a network is just a callable."""

from vqdiff.sampling.candidates import agreement, likelihood
from vqdiff.sampling.guides import Away, Guide, Reference, combined_by, in_turn
from vqdiff.sampling.loop import Batch, Canvas, Frame, run, sample
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep
from vqdiff.sampling.prediction import Apart, Denoise, PartlyGuided, Prediction, TwoStage, WithReferences
from vqdiff.sampling.random import uniforms
from vqdiff.sampling.reveal import Reveal
from vqdiff.sampling.revision import least_confident
from vqdiff.sampling.sampler import Sampler, SamplerFacts
from vqdiff.sampling.samplers import get_sampler, samplers
from vqdiff.sampling.samplers.corrected import Corrected
from vqdiff.sampling.samplers.entropy_bound import EntropyBound
from vqdiff.sampling.samplers.posterior_guided import PosteriorGuided
from vqdiff.sampling.samplers.reference_fast import ReferenceFast
from vqdiff.sampling.samplers.reference_purity import ReferenceReveal
from vqdiff.sampling.samplers.renoised import Renoised
from vqdiff.sampling.samplers.strided import Strided
from vqdiff.sampling.samplers.token_fixing import TokenFixing
from vqdiff.sampling.step import StepInput, StepSettings
from vqdiff.sampling.trace import Trace
from vqdiff.settings import CallSettings, Guidance, GuidanceSchedule, SamplingSettings, SettingChanges

__all__ = [
    "Apart",
    "Away",
    "Batch",
    "CallSettings",
    "Canvas",
    "Corrected",
    "Denoise",
    "EntropyBound",
    "Frame",
    "Guidance",
    "GuidanceSchedule",
    "Guide",
    "PartlyGuided",
    "Plan",
    "PlanInput",
    "PlanStep",
    "PosteriorGuided",
    "Prediction",
    "Reference",
    "ReferenceFast",
    "ReferenceReveal",
    "Renoised",
    "Reveal",
    "Sampler",
    "SamplerFacts",
    "SamplingSettings",
    "SettingChanges",
    "StepInput",
    "StepSettings",
    "Strided",
    "TokenFixing",
    "Trace",
    "TwoStage",
    "WithReferences",
    "agreement",
    "combined_by",
    "get_sampler",
    "in_turn",
    "least_confident",
    "likelihood",
    "run",
    "sample",
    "samplers",
    "uniforms",
]
