"""Training steps: our loss and its published formulation, around the same network, in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqdiff.bench import Dtype
from vqdiff.bench.log_one_hot import LogOneHot
from vqdiff.bench.programs import VQDIFF, Memory, Repeat, Repeated, repeat
from vqdiff.bench.report import Report
from vqdiff.bench.session import Say, Session, check_counts, less, more, pictures, precision_for
from vqdiff.bench.sizes import TEXT_TOKENS, random_architecture
from vqdiff.bench.workers import Turn, take_turns
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser
from vqdiff.diffusion import Schedule, diffusion_loss, q_sample
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.profiling import count_flops
from vqdiff.model.devices import pick_device

PUBLISHED = "log-one-hot"
Noise = tuple[Tensor, Tensor]
"""x_0 and x_t, in the form that a program computes on."""

_AUX_WEIGHT = 5e-4
_LEARNING_RATE = 1e-4
_CHECKED = 2


@dataclass(frozen=True)
class TrainingOptions:
    """How to measure the training of a denoiser; None for defaults that fit the device."""

    codes: int = 4096
    dtype: Dtype | None = None
    device: str = "auto"
    steps: int = 10
    batches: tuple[int, ...] = (8,)

    def __post_init__(self) -> None:
        check_counts(codes=self.codes, steps=self.steps, batch=self.batches)


def bench_training(
    size: str, options: TrainingOptions, command: str, say: Say, config: ClassicConfig | None = None
) -> Report:
    """Measure training a denoiser of a published size, or of ``config``, with the given number of codes.

    Raises InputError if the two losses differ.
    """
    config = replace(config or random_architecture(size).denoiser, num_codes=options.codes)
    device, dtype = pick_device(options.device), precision_for(options.dtype, options.device)
    title = f"training {size} of {options.codes} codes"
    bench = Session(title, dict.fromkeys((VQDIFF, PUBLISHED), dtype), device, command, say)
    note = "AdamW, weights in float32" + (", matrix products in bfloat16 by autocast" if dtype == "bfloat16" else "")
    bench.report.notes.append(f"{note}; λ {_AUX_WEIGHT}; the published schedule of {config.num_steps} times.")
    made = {
        name: (make, config, dtype, str(device)) for name, make in ((VQDIFF, VQDiffLoss), (PUBLISHED, PublishedLoss))
    }
    with bench.workers(made) as workers:
        noisy = _noisy(config)
        bench.check([worker.ask("losses", *noisy) for worker in workers], "losses")
        for batch in options.batches:
            work, task = f"{pictures(batch)} per step", Repeat(batch, options.steps)
            steps: list[Repeated] = take_turns(workers, "train", task, task.times, f"{work}: training")
            flops, peak = step_flops(config, batch), bench.peaks[VQDIFF]
            rates, shares = (
                [[amount / second for second in each.seconds] for each in steps]
                for amount in (batch, 100 * flops / peak)
            )
            bench.report.add(work, "seconds per step", *(each.seconds for each in steps), better=less)
            bench.report.add(work, "images per second", *rates, better=more)
            bench.report.add(work, "of the matrix products' peak, %", *shares)
            beyond = "peak memory beyond the weights, their gradients and moments"
            bench.add_memory(work, beyond, *(each.memory for each in steps))
            alone = "noise and loss alone, forward and backward"
            losses: list[Repeated] = take_turns(workers, "noise_and_loss", task, task.times, f"{work}: {alone}")
            bench.report.add(work, f"{alone}: seconds", *(each.seconds for each in losses), better=less)
            bench.add_memory(work, f"{alone}: peak memory beyond the logits", *(each.memory for each in losses))
    return bench.report


class Program(ABC):
    """A denoiser in training on random tokens and texts; programs differ in how the loss is computed."""

    def __init__(self, config: ClassicConfig, dtype: Dtype, device: str) -> None:
        if config.text_width is None:
            raise InputError("only training of text models is measured")
        self.config, self.device = config, torch.device(device)
        self.schedule = Schedule.published(config.num_steps, config.num_codes)
        self.memory = Memory(self.device)
        torch.manual_seed(0)
        self.denoiser = ClassicDenoiser(config).to(self.device)
        self.memory.keep([self.denoiser], copies=4)
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), _LEARNING_RATE, fused=True)
        self.autocast: Callable[[], AbstractContextManager[Any]] = lambda: torch.autocast(
            self.device.type, torch.bfloat16, enabled=dtype == "bfloat16"
        )

    @abstractmethod
    def noise(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Noise]:
        """Draw x_t ``(B, L)``, and what `loss` needs to know about it."""

    @abstractmethod
    def loss(self, logits: Tensor, noise: Noise, t: Tensor) -> Tensor:
        """The loss of each image, in nats, from logits ``(B, L, K)``."""

    @abstractmethod
    def noise_of(self, x0: Tensor, xt: Tensor) -> Noise:
        """What `loss` needs to know about a given x_t."""

    def losses(
        self, x0: NDArray[np.int64], xt: NDArray[np.int64], t: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The loss of each image from given tokens and logits."""
        arrays = (torch.from_numpy(array).to(self.device) for array in (x0, xt, t, logits))
        x0_, xt_, t_, logits_ = arrays
        return self.loss(logits_, self.noise_of(x0_, xt_), t_).cpu().numpy()

    def train(self, task: Repeat, turn: Turn) -> Repeated:
        """Train on random tokens, one turn per step."""
        x0, t = self.tokens(task.batch)
        text = torch.randn(task.batch, TEXT_TOKENS, self.config.text_width or 0, device=self.device)

        def step() -> None:
            xt, noise = self.noise(x0, t)
            with self.autocast():
                logits = self.denoiser(xt, t, text)
            self._mean(self.loss(logits.float(), noise, t)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        return repeat(step, task, turn, self.memory)

    def noise_and_loss(self, task: Repeat, turn: Turn) -> Repeated:
        """Draw noise and compute the loss of random logits and its gradient, one turn each time."""
        x0, t = self.tokens(task.batch)
        logits = torch.randn(*x0.shape, self.config.num_codes, device=self.device, requires_grad=True)

        def step() -> None:
            _, noise = self.noise(x0, t)
            self._mean(self.loss(logits, noise, t)).backward()
            logits.grad = None

        return repeat(step, task, turn, Memory(self.device))

    def tokens(self, batch: int) -> tuple[Tensor, Tensor]:
        """Random tokens, and times spread over 1..T."""
        x0 = torch.randint(self.config.num_codes, (batch, self.config.num_tokens), device=self.device)
        t = 1 + (torch.arange(batch, device=self.device) + 1) * (self.config.num_steps - 1) // (batch + 1)
        return x0, t

    def _mean(self, losses: Tensor) -> Tensor:
        return losses.sum() / (len(losses) * self.config.num_tokens)


class VQDiffLoss(Program):
    """This package's loss, on integers."""

    def noise(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Noise]:
        xt = q_sample(self.schedule, x0, t)
        return xt, (x0, xt)

    def loss(self, logits: Tensor, noise: Noise, t: Tensor) -> Tensor:
        x0, xt = noise
        return diffusion_loss(self.schedule, logits, x0, xt, t, aux_weight=_AUX_WEIGHT, adaptive=True).total

    def noise_of(self, x0: Tensor, xt: Tensor) -> Noise:
        return x0, xt


class PublishedLoss(Program):
    """The published loss, on log-one-hot tensors."""

    def __init__(self, config: ClassicConfig, dtype: Dtype, device: str) -> None:
        super().__init__(config, dtype, device)
        self.diffusion = LogOneHot(self.schedule, self.device)

    def noise(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Noise]:
        log_x0 = self.diffusion.to_log_one_hot(x0)
        log_xt = self.diffusion.q_sample(log_x0, t - 1)
        return log_xt.argmax(1), (log_x0, log_xt)

    def loss(self, logits: Tensor, noise: Noise, t: Tensor) -> Tensor:
        log_x0, log_xt = noise
        return self.diffusion.loss(logits.transpose(1, 2), log_x0, log_xt, t - 1, aux_weight=_AUX_WEIGHT)

    def noise_of(self, x0: Tensor, xt: Tensor) -> Noise:
        return self.diffusion.to_log_one_hot(x0), self.diffusion.to_log_one_hot(xt)


def step_flops(config: ClassicConfig, batch: int) -> int:
    """Operations of the denoiser in a training step, forward and backward; counted on the meta device."""
    with torch.device("meta"):
        denoiser = ClassicDenoiser(config)
        tokens, t = torch.zeros(batch, config.num_tokens, dtype=torch.int64), torch.ones(batch, dtype=torch.int64)
        text = torch.zeros(batch, TEXT_TOKENS, config.text_width or 0)
        return count_flops(lambda: denoiser(tokens, t, text).sum().backward())


def _noisy(config: ClassicConfig) -> tuple[NDArray[Any], ...]:
    """A few images with everything that the loss needs: x0, x_t, t, logits."""
    random, shape = np.random.default_rng(0), (_CHECKED, config.num_tokens)
    x0 = random.integers(config.num_codes, size=shape)
    t = 1 + np.arange(_CHECKED) * (config.num_steps - 1) // 2
    xt = np.where(random.random(shape) < 0.5, config.num_codes, x0)
    return x0, xt, t, random.standard_normal((*shape, config.num_codes), np.float32)
