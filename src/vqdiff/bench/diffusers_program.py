"""diffusers' VQDiffusionPipeline as a program to be measured; needs diffusers, which no longer loads it as a whole.

It imports only the measuring code of this package, so that its memory and its cold start are its own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Transformer2DModel, VQDiffusionScheduler, VQModel  # type: ignore[attr-defined]
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
    LearnedClassifierFreeSamplingEmbeddings,
    VQDiffusionPipeline,
)
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from vqdiff.bench import Dtype
from vqdiff.bench.programs import Memory, Repeat, Repeated, Stopwatch, TimedSteps, Workload, prompts, repeat
from vqdiff.bench.workers import Turn

warnings.simplefilter("ignore", FutureWarning)  # from code that will not change


def read_pipeline(folder: Path, dtype: Dtype, device: str) -> Any:
    """Load the pipeline from its parts; the image decoder stays in float32, as the pipeline fails otherwise."""
    logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    kind, null = getattr(torch, dtype), "learned_classifier_free_sampling_embeddings"
    parts: dict[str, Any] = {
        "transformer": Transformer2DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=kind),
        "vqvae": VQModel.from_pretrained(folder, subfolder="vqvae", torch_dtype=torch.float32),
        "scheduler": VQDiffusionScheduler.from_pretrained(folder, subfolder="scheduler"),
        "text_encoder": CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=kind),
        "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        null: LearnedClassifierFreeSamplingEmbeddings.from_pretrained(folder, subfolder=null, torch_dtype=kind),
    }
    pipe = VQDiffusionPipeline(**parts).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Diffusers:
    """A diffusers folder, loaded and run by the pipeline's own code."""

    def __init__(self, folder: Path, dtype: Dtype, device: str) -> None:
        self.memory = Memory(torch.device(device))
        self.pipe = read_pipeline(folder, dtype, device)
        self.memory.keep([part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)])
        self.watch = Stopwatch(torch.device(device))
        self.pipe.transformer.forward = self.watch.timed(self.pipe.transformer.forward)

    @torch.inference_mode()
    def log_probs(self, tokens: NDArray[np.int64], t: int) -> NDArray[np.float32]:
        """Log p(x0 | xt), ``(2B, L, K)``: under ∅, then under prompts. Its times start at 0."""
        x = torch.from_numpy(tokens).to(self.pipe.device)
        text = self.pipe._encode_prompt(prompts(len(tokens)), 1, True)
        time_ = torch.tensor(t - 1, device=x.device)
        out = self.pipe.transformer(torch.cat([x, x]), encoder_hidden_states=text, timestep=time_).sample
        return out.float().transpose(1, 2).cpu().numpy()

    def draw(self, task: Workload, turn: Turn) -> TimedSteps:
        """Run the pipeline on half masked tokens: a first step to warm up, then one turn per step."""
        assert task.steps is not None
        count, watch, setup = task.steps, self.watch, 0.0
        self.memory.begin()
        watch.clear()
        net: Any = self.pipe.transformer
        tokens = torch.randint(net.config.num_vector_embeds - 1, (task.batch, net.num_latent_pixels))
        tokens[:, ::2] = net.config.num_vector_embeds - 1

        def ready(steps: Iterable[Any]) -> Iterable[Any]:
            nonlocal setup
            setup = time.perf_counter() - start
            return steps

        def after(step: int, *_: object) -> None:
            if step > 0:
                watch.stop()
            if step == count:
                raise _EnoughError
            turn()
            watch.start()

        self.pipe.progress_bar = ready  # called before the first step
        start = time.perf_counter()
        with suppress(_EnoughError):
            self.pipe(
                prompts(task.batch),
                num_inference_steps=max(count + 1, self.pipe.scheduler.config.num_train_timesteps),
                guidance_scale=task.settings.guidance,
                truncation_rate=task.settings.truncation,
                latents=tokens,
                callback=after,
            )
        return TimedSteps(setup, watch.laps, watch.network, self.memory.beyond())

    @torch.inference_mode()
    def decode(self, task: Repeat, turn: Turn) -> Repeated:
        """Decode random tokens to PIL images as the pipeline does at its end, one turn each time."""
        net, codec = self.pipe.transformer, self.pipe.vqvae
        tokens = torch.randint(
            codec.config.num_vq_embeddings, (task.batch, net.num_latent_pixels), device=self.pipe.device
        )
        shape = (task.batch, net.height, net.width, codec.config.vq_embed_dim)

        def pictures() -> None:
            found = codec.decode(codec.quantize.get_codebook_entry(tokens, shape=shape), force_not_quantize=True).sample
            self.pipe.numpy_to_pil((found / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy())

        return repeat(pictures, task, turn, self.memory)


class _EnoughError(Exception):
    """All requested steps are done."""


def first_picture(folder: Path, dtype: Dtype, device: str, output: Path) -> str:
    """A program that loads a model, generates one image in one step, and saves it."""
    return (
        f"from pathlib import Path; from vqdiff.bench.diffusers_program import read_pipeline; "
        f"pipe = read_pipeline(Path({str(folder)!r}), {dtype!r}, {device!r}); "
        f"pipe({prompts(1)[0]!r}, num_inference_steps=1).images[0].save({str(output)!r})"
    )
