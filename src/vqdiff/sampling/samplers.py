"""The samplers: each makes a plan for a number of steps and carries out one step of it for a whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

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
    truncate,
)
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.orders import PREDICTION_INDEPENDENT, Order, by_confidence, by_halton, by_purity, by_random
from vqdiff.sampling.plan import (
    Plan,
    PlanInput,
    PlanStep,
    reference_fast_plan,
    reference_reveal_plan,
    reference_reveals,
    reveal_plan,
    strided_plan,
)
from vqdiff.sampling.prediction import Prediction, take

__all__ = [
    "PosteriorGuided",
    "ReferenceFast",
    "ReferenceReveal",
    "Reveal",
    "Sampler",
    "StepInput",
    "StepSettings",
    "Strided",
    "get_sampler",
    "samplers",
]


class StepSettings(NamedTuple):
    """The settings of every image in one step, each (B,), on the tokens' device; truncation None if it is off for all.

    Truncation that the host knows to be off is skipped: on a GPU, `truncate` sorts all codes even where the rate is 1.
    """

    guidance: Float[Tensor, "B"]
    truncation: Float[Tensor, "B"] | None
    prior_scale: Float[Tensor, "B"]

    def truncate(self, log_p0: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
        return log_p0 if self.truncation is None else truncate(log_p0, self.truncation)


class StepInput(NamedTuple):
    """What a step works on.

    prediction: of the clean tokens, guided, not yet truncated, computed where a token may be sampled. u:
    uniforms in (0, 1), one for each of the sampler's `num_uniforms`.
    """

    schedule: Schedule
    tokens: Int[Tensor, "B L"]
    prediction: Prediction
    now: PlanStep
    settings: StepSettings
    u: Float[Tensor, "N B L"]

    @property
    def masked(self) -> Bool[Tensor, "B L"]:
        return self.tokens == self.schedule.num_codes

    def of_image(self, image: int, plan: Plan, *, guided: bool, truncated: bool) -> StepInput:
        """Return the input of this step for one image alone, whose plan is a row of `plan`."""
        row = slice(image, image + 1)
        guidance, truncation, prior_scale = self.settings
        settings = StepSettings(
            guidance[row], truncation[row] if truncation is not None and truncated else None, prior_scale[row]
        )
        prediction, now = self.prediction.select(image, guided=guided), plan.select(row).first(self.tokens.device)
        return StepInput(self.schedule, self.tokens[row], prediction, now, settings, self.u[:, row])


class Sampler(ABC):
    """A plan and a step. A sampler has no state: one object serves any number of runs at once."""

    num_uniforms: ClassVar[int] = 2
    """How many random numbers a position needs in one step."""

    @abstractmethod
    def plan(self, given: PlanInput) -> Plan:
        """Plan the steps of a batch."""

    @abstractmethod
    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Carry out one step. The result is ignored for rows with t = 0: the loop keeps their tokens."""

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

    Builds the posterior, so it is slow. Truncation, which acts on a prediction of x0, is not applied.
    """

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        cond, null = x.prediction.pair()
        t, s = x.now.t.clamp(min=1), x.now.s
        return draw_categorical(guide_posterior(x.schedule, cond, null, x.settings.guidance, x.tokens, t, s), x.u[1])


@dataclass(frozen=True)
class ReferenceFast(Sampler):
    """The published fast sampler: single-step posteriors at shifted times (`reference_fast_plan`), from all MASK."""

    skip: int | None = None

    def plan(self, given: PlanInput) -> Plan:
        return reference_fast_plan(given, self.skip)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        return _draw_posterior(x, x.now.s + 1)


def _draw_posterior(x: StepInput, t: Int[Tensor, "B"]) -> Int[Tensor, "B L"]:
    """Draw x_s from p(x_s | x_t): x0 from the prediction, then x_s from q(x_s | x_t, x0).

    Which positions keep their token whatever x0 is, is drawn first; the network's head is evaluated at the others only.
    """
    q, (choice, u) = bridge(x.schedule, t.clamp(min=1), x.now.s), x.u
    undecided = q.undecided(x.tokens, choice) & (x.now.t > 0)[:, None]
    # Where the host would have to wait for the device to know how many there are, all are sampled.
    most = int(undecided.sum(1).max()) if undecided.is_cpu else undecided.shape[1]
    # Images that have fewer are padded with decided positions, where any x0 will do.
    at = _largest(undecided.byte(), most)
    x0 = draw_categorical(x.settings.truncate(x.prediction.at(at)), u.gather(1, at))
    return q.draw(torch.zeros_like(x.tokens).scatter(1, at, x0), x.tokens, choice)


def _largest(keys: Tensor, count: int) -> Int[Tensor, "B N"]:
    """Return the places of the `count` largest keys of each row; of equals, the first."""
    return keys.argsort(dim=1, descending=True, stable=True)[:, :count]


@dataclass(frozen=True)
class Reveal(Sampler):
    """Reveal a planned number of masked positions per step, and never change them again.

    Algorithms 1 and 2 of Improved VQ-Diffusion (arXiv 2205.16007), for any number of tokens, times and steps.

    order: which positions go first. sharpened: sample from softmax((1 + prior_scale · purity) · log p0) (its Eq. 11).
    """

    order: Order = by_random
    sharpened: bool = False

    def plan(self, given: PlanInput) -> Plan:
        return reveal_plan(given)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """Choose C_t among the masked positions A_t, draw x0 there, sharpened by purity, and reveal it."""
        u_order, u_code = x.u
        if self.order in PREDICTION_INDEPENDENT:  # as in Algorithm 1: C_t is known before the network is evaluated
            at = self._choose(u_order, u_order, x.masked, x.now.most)
            log_p0 = x.prediction.at(at)
            score = purity(log_p0)
        else:  # as in Algorithm 2: the purity of all of A_t decides
            at = _largest(x.masked.byte(), x.now.left)
            log_p0 = x.prediction.at(at)
            score = purity(log_p0)
            chosen = self._choose(score, u_order.gather(1, at), x.masked.gather(1, at), x.now.most)
            at, log_p0, score = at.gather(1, chosen), take(log_p0, chosen), score.gather(1, chosen)
        log_p0 = x.settings.truncate(log_p0)
        if self.sharpened:
            log_p0 = sharpen(log_p0, score, x.settings.prior_scale)
        x0 = draw_categorical(log_p0, u_code.gather(1, at))
        return _revealed(x, at, x0, x.masked)

    def _choose(
        self, score: Float[Tensor, "B M"], u: Float[Tensor, "B M"], open_: Bool[Tensor, "B M"], count: int
    ) -> Int[Tensor, "B N"]:
        """Return which `count` of the M positions come first: those still to fill in their order, then any others."""
        return _largest(self.order(score, u).masked_fill(~open_, -torch.inf), count)


def _revealed(
    x: StepInput, at: Int[Tensor, "B N"], x0: Int[Tensor, "B N"], open_: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """Write x0 to the first `now.reveal` of the positions `at`, where these are still to fill; the rest stays."""
    wanted = torch.arange(x.now.most, device=at.device) < x.now.reveal[:, None]
    return x.tokens.scatter(1, at, torch.where(wanted & open_.gather(1, at), x0, x.tokens.gather(1, at)))


@dataclass(frozen=True)
class ReferenceReveal(Reveal):
    """The published "high-quality inference": fixed counts, and a last call at t = 1 that resamples every position.

    Purity is divided by the image's largest, for the weights and for the exponent; Eq. 11 uses it undivided. The
    last call is not sharpened.

    reveals: tokens to reveal at each time 1..T; None for the published tables. most: the largest number a call may
    reveal, None for no limit.
    """

    reveals: tuple[int, ...] | None = None
    most: int | None = None

    def plan(self, given: PlanInput) -> Plan:
        reveals = self.reveals or reference_reveals(given.schedule.num_steps, given.num_tokens, self.most)
        return reference_reveal_plan(given, reveals, self.most)

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        """As `Reveal.step`, but with the purity of the whole image, and with all positions to fill in the last call."""
        u_order, u_code = x.u
        last = x.now.t == 1
        open_ = x.masked | last[:, None]
        log_p0 = x.prediction.at()
        score = purity(log_p0)
        score = score / score.amax(1, keepdim=True)
        at = self._choose(score, u_order, open_, x.now.most)
        log_p0, score = x.settings.truncate(take(log_p0, at)), score.gather(1, at)
        if self.sharpened:
            log_p0 = sharpen(log_p0, score, x.settings.prior_scale * ~last)
        x0 = draw_categorical(log_p0, u_code.gather(1, at))
        return _revealed(x, at, x0, open_)


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
    "strided": (Strided(), "the exact posterior over equal strides of time; as ancestral when steps = T"),
    "posterior-guided": (
        PosteriorGuided(),
        "as strided, but guides the posterior instead of p(x0) (Eq. 7 as printed)",
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
