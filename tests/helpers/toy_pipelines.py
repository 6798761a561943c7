"""Pipelines of 64 tokens with random weights, of classes or of text; network calls can be paced and spoilt."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vqdiff
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.denoisers.packed import pack
from vqdiff.diffusion import Schedule
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import BoundDenoiser, Job, Model
from vqdiff.pipeline import Pipeline
from vqdiff.requests import DrawRequest
from vqdiff.sampling import SamplingSettings
from vqdiff.text import NullCondition, TextEncoder

CODES, TIMES, CLASSES, POISON = 12, 8, 5, 4


def toy_pipeline(kind: str = "modern", steps: int = 4) -> Pipeline:
    """A modern, packed modern, classic or unconditional model; where the class is POISON, `Gate.spoil` fails it.

    All but the unconditional one have a measurement for the reveal curve measured.
    """
    torch.manual_seed(0)
    classes = None if kind == "unconditional" else CLASSES
    if kind == "classic":
        denoiser: Any = ClassicDenoiser(ClassicConfig(CODES, TIMES, 8, 16, 1, 2, num_classes=classes, null_class=True))
    else:
        denoiser = ModernDenoiser(ModernConfig(CODES, TIMES, 8, 16, 1, 2, token_width=8, num_classes=classes))
    for weight in denoiser.parameters():
        weight.data.normal_(0, 0.4)  # the modulation begins at 0: a fresh network would be deaf to its class
    tokenizer = CompactTokenizer(CompactConfig(32, (4, 8), (0, 0), (0, 0), num_codes=CODES, code_dim=4)).eval()
    schedule, settings = Schedule.paper(TIMES, CODES), SamplingSettings(steps=steps)
    denoiser = denoiser.eval().requires_grad_(False)
    model = Model(
        schedule,
        pack(denoiser) if kind == "packed" else denoiser,
        tokenizer.requires_grad_(False),
        sampling=settings,
        masked_nll=() if kind == "unconditional" else (1.0, 1.2, 3.0),
    )
    return Pipeline(model)


def generate(
    model: Model, prompts: Any = None, *, num_images: int = 1, seed: int = 0, negative: Any = None, **changes: Any
) -> Job:
    """Images to generate with some of the model's own settings changed."""
    settings = model.sampling.changed(**changes)
    return DrawRequest(prompts=prompts, num_images=num_images, seed=seed, negative=negative, settings=settings).job(
        model
    )


def text_pipeline(kind: str = "modern") -> Pipeline:
    """A modern, packed or classic model with the bundled text encoder."""
    torch.manual_seed(0)
    encoder = TextEncoder(Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder", max_tokens=12)
    if kind == "classic":
        denoiser: Any = ClassicDenoiser(ClassicConfig(CODES, TIMES, 8, 16, 1, 2, text_width=encoder.width))
    else:
        denoiser = ModernDenoiser(ModernConfig(CODES, TIMES, 8, 16, 1, 2, token_width=8, text_width=encoder.width))
    for weight in denoiser.parameters():
        weight.data.normal_(0, 0.4)
    pipe, denoiser = toy_pipeline(), denoiser.eval().requires_grad_(False)
    model = replace(
        pipe.model,
        denoiser=pack(denoiser) if kind == "packed" else denoiser,
        text_encoder=encoder,
        null_condition=NullCondition.of("learnable", encoder).eval().requires_grad_(False),
    )
    return Pipeline(model)


class Gate:
    """Lets the steps of a pipeline's batches through one by one, and notes how many rows each had."""

    def __init__(self, pipe: Pipeline, *, shut: bool = True) -> None:
        self.sizes = list[int]()
        self.spoil = False
        self._tickets = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._shut = shut
        model, bind = pipe.model, pipe.model.bind
        vars(model)["bind"] = lambda *given, **more: _Gated(**vars(bind(*given, **more)), gate=self)

    def pass_through(self, tokens: Tensor, bound: BoundDenoiser) -> None:
        self._arrived.release()
        if self._shut:
            assert self._tickets.acquire(timeout=30), "the test has forgotten the network"
        self.sizes.append(len(tokens))
        poison = bound.denoiser.class_embedding.weight[POISON] if self.spoil else None
        if poison is not None and (bound.condition.vector == poison).all(-1).any():
            raise RuntimeError("poisoned")

    def await_call(self) -> None:
        """Wait until the network is about to be called, once more than before."""
        assert self._arrived.acquire(timeout=30), "the network was not called"

    def let(self, calls: int) -> None:
        """Let so many calls through, and wait until the next is about to begin."""
        for _ in range(calls):
            self._tickets.release()
            self.await_call()

    def allow(self, calls: int) -> None:
        """Let so many calls through, whenever they begin."""
        self._tickets.release(calls) if calls else None

    def open(self) -> None:
        """Let all calls through from now on."""
        self._shut = False
        self._tickets.release()


@dataclass(frozen=True)
class _Gated(BoundDenoiser):
    gate: Gate | None = None

    def features(self, tokens: Tensor, t: Tensor) -> Tensor:
        assert self.gate is not None
        self.gate.pass_through(tokens, self)
        return super().features(tokens, t)
