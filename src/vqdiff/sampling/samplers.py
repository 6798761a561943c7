"""The samplers: each makes a plan for a number of steps and carries out one step of it for a whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vqdiff.diffusion import (
    Schedule,
    bridge,
    draw_categorical,
    draw_forward,
    guide_posterior,
    purity,
    sharpen,
    token_log_probs,
)
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import Order, by_confidence, by_halton, by_purity, by_random, needs_purity
from vqdiff.sampling.plan import (
    Plan,
    PlanInput,
    PlanStep,
    corrected_plan,
    reference_fast_plan,
    reference_reveal_plan,
    reference_reveals,
    reveal_plan,
    strided_plan,
)
from vqdiff.sampling.prediction import take
from vqdiff.sampling.step import StepInput, StepSettings

__all__ = [
    "Corrected",
    "EntropyBound",
    "PosteriorGuided",
    "ReferenceFast",
    "ReferenceReveal",
    "Reveal",
    "Sampler",
    "Strided",
    "get_sampler",
    "samplers",
]


class Sampler(ABC):
    """A plan and a step. A sampler has no state: one object serves any number of runs at once."""

    num_uniforms: ClassVar[int] = 2
    """How many random numbers a position needs in one step."""

    adaptive: ClassVar[bool] = False
    """Whether a step reveals as many positions as it finds fit: then the steps left are planned anew after each."""

    @abstractmethod
    def plan(self, given: PlanInput) -> Plan:
        """Plan the steps of a batch; for an adaptive sampler, that many at most."""

    @abstractmethod
    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Carry out one step. The result is ignored for rows with t = 0: the loop keeps their tokens."""

    def before(
        self,
        schedule: Schedule,
        tokens: Int[Tensor, "B L"],
        now: PlanStep,
        settings: StepSettings,
        u: Float[Tensor, "N B L"],
    ) -> Int[Tensor, "B L"]:
        """Change the tokens before the prediction; the step gets the changed ones, and the same random numbers."""
        del schedule, now, settings, u
        return tokens

    def noise(
        self, schedule: Schedule, x0: Int[Tensor, "B L"], t: Int[Tensor, "B"], u: Float[Tensor, "B L"]
    ) -> Int[Tensor, "B L"]:
        """Noise clean tokens to the time t, 0..T, in a way that this sampler can undo; at T nothing of them is left.

        By default, t / T of the positions are masked, all at T, where Algorithms 1 and 2 begin; none is replaced, since
        visible tokens stay.

        Raises InputError for a schedule without masks.
        """
        if schedule.gamma_bar_ends[1] == 0:
            raise InputError("this schedule has no masks (gamma_bar is 0) to start from: use strided or ancestral")
        return torch.where(u < (t / schedule.num_steps)[:, None], schedule.num_codes, x0)


@dataclass(frozen=True)
class Strided(Sampler):
    """Draw x_s from Σ_x0 q(x_s | x_t, x0) p(x0 | x_t) for any s < t (arXiv 2111.14822, Eq. 13), exactly.

    every: take all the steps from start to 0, whatever number is requested.
    """

    every: bool = False

    def plan(self, given: PlanInput) -> Plan:
        return strided_plan(replace(given, steps=given.start) if self.every else given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return _draw_posterior(x, x.now.t)

    def noise(
        self, schedule: Schedule, x0: Int[Tensor, "B L"], t: Int[Tensor, "B"], u: Float[Tensor, "B L"]
    ) -> Int[Tensor, "B L"]:
        """Draw x_t from q(x_t | x_0); at T all codes are equally likely, though q may still slightly favour x_0."""
        gamma_bar = schedule.gamma_bar_ends[1]
        code = ((u - gamma_bar) / (1 - gamma_bar) * schedule.num_codes).long().clamp(0, schedule.num_codes - 1)
        x_T = torch.where(u < gamma_bar, schedule.num_codes, code)
        return torch.where((t == schedule.num_steps)[:, None], x_T, draw_forward(schedule, x0, t, u))


@dataclass(frozen=True)
class PosteriorGuided(Strided):
    """As `Strided`, but guides p(x_s | x_t), as arXiv 2205.16007 prints Eq. 7, where the others guide p(x0 | x_t).

    Builds the posterior, so it is slow. Temperature and truncation, which act on a prediction of x0, are not applied.
    """

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        cond, null = x.prediction.pair()
        t, s = x.now.t.clamp(min=1), x.now.s
        scale = 1.0 if x.settings.guidance is None else x.settings.guidance
        return draw_categorical(guide_posterior(x.schedule, cond, null, scale, x.tokens, t, s), x.u[1])


@dataclass(frozen=True)
class ReferenceFast(Sampler):
    """The published fast sampler: single-step posteriors at shifted times (`reference_fast_plan`), from all MASK."""

    skip: int | None = None

    def plan(self, given: PlanInput) -> Plan:
        return reference_fast_plan(given, self.skip)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return _draw_posterior(x, x.now.s + 1)


_REPLACES = 0.01
"""K·beta_bar at T above which a schedule is one that replaces tokens; published ones have 1e-6."""


@dataclass(frozen=True)
class Corrected(Strided):
    """As `Strided`, and after strides, calls that draw some positions anew at the same time (docs/equations.md, 12).

    A column of the plan with s = t is such a call. With a perfect network and one position a call, they leave q(x_t)
    unchanged. Which positions they are depends on the seed alone: neighbours in the Halton sequence.
    """

    num_uniforms: ClassVar[int] = 3

    def plan(self, given: PlanInput) -> Plan:
        return corrected_plan(given)

    def before(
        self,
        schedule: Schedule,
        tokens: Int[Tensor, "B L"],
        now: PlanStep,
        settings: StepSettings,
        u: Float[Tensor, "N B L"],
    ) -> Int[Tensor, "B L"]:
        """Mask what will be drawn anew, if the schedule replaces hardly anything: then a visible token says it all."""
        if schedule.replaced_ends[1] > _REPLACES:
            return tokens
        return torch.where(self._redrawn(now, settings, u[2]), schedule.num_codes, tokens)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        t, corrects = x.now.t.clamp(min=1), (x.now.s == x.now.t)[:, None]
        redrawn = self._redrawn(x.now, x.settings, x.u[2])
        earlier = torch.where(corrects[:, 0], t - 1, x.now.s)  # any will do for the rows that are corrected
        q, (choice, u) = bridge(x.schedule, t, earlier), x.u[:2]
        undecided = torch.where(corrects, redrawn, q.undecided(x.tokens, choice) & (x.now.t > 0)[:, None])
        at = _where(undecided)
        log_p0, u = x.settings.warp(x.prediction.at(at)), u.gather(1, at)
        x0 = draw_categorical(log_p0, u)
        strides = q.draw(torch.zeros_like(x.tokens).scatter(1, at, x0), x.tokens, choice)
        tokens = torch.where(redrawn, x.tokens, x.schedule.num_codes).gather(1, at)
        corrected = x.tokens.scatter(1, at, draw_categorical(token_log_probs(x.schedule, log_p0, tokens, t), u))
        return torch.where(corrects, torch.where(redrawn, corrected, x.tokens), strides)

    def _redrawn(self, now: PlanStep, settings: StepSettings, u: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Return the positions to draw anew: `corrector_share` of them in the rows that are corrected, at least one."""
        num_tokens = u.shape[1]
        order = (-by_halton(u, u)).long()  # 0 for the first position of the sequence
        first = (u[:, :1] * num_tokens).long()
        share = torch.zeros_like(now.t, dtype=u.dtype) if settings.corrector_share is None else settings.corrector_share
        count = (share * num_tokens).round().clamp(min=1)
        chosen = (order - first) % num_tokens < count[:, None]
        return chosen & ((now.s == now.t) & (now.t > 0) & (share > 0))[:, None]


def _draw_posterior(x: StepInput, t: Int[Tensor, "B"]) -> Int[Tensor, "B L"]:
    """Draw x_s from p(x_s | x_t): x0 from the prediction, then x_s from q(x_s | x_t, x0).

    Which positions keep their token whatever x0 is, is drawn first; the network's head is evaluated at the others only.
    """
    q, (choice, u) = bridge(x.schedule, t.clamp(min=1), x.now.s), x.u
    at = _where(q.undecided(x.tokens, choice) & (x.now.t > 0)[:, None])
    x0 = draw_categorical(x.settings.warp(x.prediction.at(at)), u.gather(1, at))
    return q.draw(torch.zeros_like(x.tokens).scatter(1, at, x0), x.tokens, choice)


def _where(chosen: Bool[Tensor, "B L"]) -> Int[Tensor, "B N"]:
    """Return the chosen places of each row, then others, as many as in the row that has most.

    Where the host would have to wait for the device to know how many that are, all.
    """
    return _largest(chosen.byte(), int(chosen.sum(1).max()) if chosen.is_cpu else chosen.shape[1])


def _largest(keys: Tensor, count: int) -> Int[Tensor, "B N"]:
    """Return the places of the `count` largest keys of each row; of equals, the first."""
    return keys.argsort(dim=1, descending=True, stable=True)[:, :count]


@dataclass(frozen=True)
class Reveal(Sampler):
    """Reveal a planned number Δz of masked positions per step, and never change them again.

    Algorithms 1 and 2 of Improved VQ-Diffusion (arXiv 2205.16007), for any number of tokens, times and steps.

    order: which positions go first. sharpened: sample from softmax((1 + prior_scale · purity) · log p0) (Eq. 11 of
    Improved VQ-Diffusion).
    """

    order: Order = by_random
    sharpened: bool = False

    def plan(self, given: PlanInput) -> Plan:
        return reveal_plan(given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return self._algorithm_2(x) if needs_purity(self.order) else self._algorithm_1(x)

    def _algorithm_1(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Choose first: the network's head is evaluated at the chosen positions alone."""
        u_order, u = x.u
        # A_t ← {i : x_i = MASK};  C_t ← Δz elements of A_t
        chosen = _first(self.order(u_order, u_order), x.masked, x.now.most)
        # x_0,i ~ p(x_0,i | x_t, y)
        log_p0 = x.prediction.at(chosen)
        x0 = draw_categorical(self._sharpen(x, log_p0, purity(log_p0)), u.gather(1, chosen))
        # x_i ← x_0,i for i in C_t
        return _reveal(x, chosen, x0, x.masked)

    def _algorithm_2(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Predict first: the purity of all masked positions decides which are chosen."""
        u_order, u = x.u
        # A_t ← {i : x_i = MASK}
        masked = _largest(x.masked.byte(), x.now.left)
        # purity_i ← max_k p(x_0,i = k | x_t, y)
        log_p0 = x.prediction.at(masked)
        purities = purity(log_p0)
        # C_t ← Δz elements of A_t, by importance sampling with weights purity_i
        order = self.order(purities, u_order.gather(1, masked))
        first = _first(order, x.masked.gather(1, masked), x.now.most)
        chosen, log_p0, purities = masked.gather(1, first), take(log_p0, first), purities.gather(1, first)
        # p_i ← softmax((1 + r · purity_i) · log p(x_0,i | x_t, y));  x_0,i ~ p_i
        x0 = draw_categorical(self._sharpen(x, log_p0, purities), u.gather(1, chosen))
        # x_i ← x_0,i for i in C_t
        return _reveal(x, chosen, x0, x.masked)

    def _sharpen(
        self, x: StepInput, log_p0: Float[Tensor, "B N K"], purities: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B N K"]:
        """Apply temperature, truncation and sharpening to a prediction, as the settings say."""
        log_p0, r = x.settings.warp(log_p0), x.settings.prior_scale
        return log_p0 if r is None or not self.sharpened else sharpen(log_p0, purities, r)


def _first(order: Tensor, fillable: Bool[Tensor, "B M"], count: int) -> Int[Tensor, "B N"]:
    """Return which `count` of M positions are filled first: the fillable in their order, then any others."""
    scores = order if order.is_floating_point() else order.double()
    return _largest(scores.expand(fillable.shape).masked_fill(~fillable, -torch.inf), count)


def _reveal(
    x: StepInput, at: Int[Tensor, "B N"], x0: Int[Tensor, "B N"], fillable: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """Write x0 to the first `now.reveal` of the positions `at`, where these are fillable; the rest stays."""
    wanted = torch.arange(x.now.most, device=at.device) < x.now.reveal[:, None]
    return x.tokens.scatter(1, at, torch.where(wanted & fillable.gather(1, at), x0, x.tokens.gather(1, at)))


@dataclass(frozen=True)
class EntropyBound(Reveal):
    """Reveal the longest prefix, by entropy H, with Σ H - max H ≤ ε (Ben-Hamu et al. 2025, arXiv 2505.24857).

    Positions drawn independently differ from their joint distribution by a Kullback-Leibler divergence of at most this
    sum. ε is `error`, and the last step takes all that is left. If it is 0, ε is the step's equal share of the entropy
    of all masked positions, so that the requested steps are taken, and each adds about as much error as another.
    """

    adaptive: ClassVar[bool] = True
    sharpened: bool = True

    def plan(self, given: PlanInput) -> Plan:
        return reveal_plan(replace(given, curves=None))

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        u = x.u[1]
        masked = _largest(x.masked.byte(), x.now.left)
        fillable = x.masked.gather(1, masked)
        prediction = x.prediction.at(masked)
        log_p0 = self._sharpen(x, prediction, purity(prediction))
        entropy = -(log_p0.exp() * log_p0).nan_to_num(nan=0.0).sum(-1)  # 0 · log 0 = 0
        count = self._count(x, entropy.masked_fill(~fillable, torch.inf).sort(dim=1).values, fillable.sum(1))
        first = _first(-entropy, fillable, int(count.max()) if count.is_cpu else x.now.left)
        chosen = masked.gather(1, first)
        x0 = draw_categorical(take(log_p0, first), u.gather(1, chosen))
        wanted = torch.arange(chosen.shape[1], device=chosen.device) < count[:, None]
        return x.tokens.scatter(1, chosen, torch.where(wanted, x0, x.tokens.gather(1, chosen)))

    @staticmethod
    def _count(x: StepInput, entropy: Float[Tensor, "B M"], left: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        """Return how many positions are revealed: at least one; all if the plan ends here. entropy: sorted, then ∞."""
        finite = entropy.masked_fill(entropy.isinf(), 0)
        error = finite.sum(1) * x.now.reveal / left.clamp(min=1)
        if (given := x.settings.error) is not None:
            error = torch.where(given > 0, given.to(error), error)
        before = finite.cumsum(1) - finite  # Σ H - max H of each prefix, as the last of it is the largest
        within = (before <= error[:, None]).sum(1)
        return torch.where(x.now.reveal >= left, left, torch.minimum(within.clamp(min=1), left))


@dataclass(frozen=True)
class ReferenceReveal(Reveal):
    """The published "high-quality inference": fixed counts, and a last call at t = 1 that resamples every position.

    Purity is divided by the image's largest, for the weights and for the exponent; Improved VQ-Diffusion, Eq. 11, uses
    it undivided. The last call is not sharpened.

    reveals: tokens to reveal at each time 1..T; None for the published tables. most: the largest number a call may
    reveal, None for no limit.
    """

    reveals: tuple[int, ...] | None = None
    most: int | None = None

    def plan(self, given: PlanInput) -> Plan:
        reveals = self.reveals or reference_reveals(given.schedule.num_steps, given.num_tokens, self.most)
        return reference_reveal_plan(given, reveals, self.most)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """As `Reveal`, but with the purity of the whole image, and with all positions to fill in the last call."""
        u_order, u = x.u
        last = x.now.t == 1
        fillable = x.masked | last[:, None]
        log_p0 = x.prediction.at()
        purities = purity(log_p0)
        purities = purities / purities.amax(1, keepdim=True)
        chosen = _first(self.order(purities, u_order), fillable, x.now.most)
        # In the last call, purity 0 sharpens nothing.
        purities = (purities * ~last[:, None]).gather(1, chosen)
        x0 = draw_categorical(self._sharpen(x, take(log_p0, chosen), purities), u.gather(1, chosen))
        return _reveal(x, chosen, x0, fillable)


_OWN: dict[str, tuple[Sampler, str]] = {
    "purity": (
        Reveal(by_purity, sharpened=True),
        "fewer tokens per step; the most confident positions are more likely to come first, and are sampled from "
        "sharper distributions (Algorithm 2)",
    ),
    "fewer-tokens": (Reveal(by_random), "fewer tokens per step, at random positions (Algorithm 1)"),
    "confidence": (Reveal(by_confidence, sharpened=True), "as purity, but always the most confident positions first"),
    "halton": (
        Reveal(by_halton, sharpened=True),
        "as purity, but positions far from each other first (Halton sequence)",
    ),
    "entropy-bound": (
        EntropyBound(),
        "reveals in a step as many positions as are nearly certain, by their entropy: few steps for plain images",
    ),
    "corrected": (
        Corrected(),
        "as strided, and between strides some tokens are drawn anew given all others (a Gibbs sampler)",
    ),
    "strided": (Strided(), "the exact posterior over equal strides of time; as ancestral when steps = T"),
    "posterior-guided": (
        PosteriorGuided(),
        "as strided, but guides the posterior instead of p(x0) (Eq. 7 of Improved VQ-Diffusion as printed)",
    ),
    "ancestral": (Strided(every=True), "the exact posterior at every one of the T times, whatever `steps` says"),
    "reference-fast": (ReferenceFast(), "the published code's fast sampler: one-step posteriors at shifted times"),
    "reference-fewer-tokens": (
        ReferenceReveal(by_random, most=5),
        "the published code at `infer_speed=0.5`: at most five random positions per call, all "
        "resampled in the last call",
    ),
    "reference-purity": (
        ReferenceReveal(by_purity, sharpened=True),
        "the published code's purity sampler: fixed counts at each of the T times, all resampled in the last call",
    ),
}
for _name, (_sampler, _description) in _OWN.items():
    SAMPLERS.register(_name, _sampler, _description)


def samplers() -> dict[str, str]:
    """Return the names of the samplers, each with a one-line description."""
    return SAMPLERS.descriptions()


def get_sampler(name: str) -> Sampler:
    """Return the sampler of that name.

    Raises InputError for an unknown name, and suggests the nearest.
    """
    return SAMPLERS.get(name)
