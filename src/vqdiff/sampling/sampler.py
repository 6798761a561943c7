"""What a sampler is, and the functions that several samplers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, bridge, draw_categorical
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.sampling.plan import Plan, PlanInput, PlanStep
from vqdiff.sampling.step import StepInput, StepSettings

__all__ = ["REVEALING", "WARPING", "Sampler", "SamplerFacts", "draw_posterior_step", "largest", "places_of"]

WARPING = frozenset({"temperature", "temperature_schedule", "truncation"})
"""The settings that `StepSettings.warp` applies."""
REVEALING = WARPING | {"steps", "curve", "curve_power"}
"""Those and the settings of `reveal_plan`."""


@dataclass(frozen=True)
class SamplerFacts:
    """What `vqdiff samplers` says of a sampler.

    idea: one line; by default the first of the sampler's docstring. paper: its arXiv number, "" if there is none.
    calls: how many network calls a run takes. exact: whether a perfect network, without guidance and with all settings
    off, gives samples of q: always; if every call changes at most one token, as the tokens of a call are sampled
    independently; or never. uses: the settings that it uses, beside those of guidance and candidates, which work with
    all samplers; who sets another is warned. None: not stated, nobody is.
    """

    idea: str = ""
    paper: str = ""
    calls: str = "steps"
    exact: Literal["yes", "one token per call", "no", "not stated"] = "not stated"
    uses: Set[str] | None = None


class Sampler(ABC):
    """A plan and a step. A sampler has no state: one object serves any number of runs at once."""

    facts: SamplerFacts = SamplerFacts()
    """How the sampler is described; an attribute of the class or of the object."""
    num_uniforms: ClassVar[int] = 2
    """How many random numbers a position needs in one step."""
    fixes: ClassVar[bool] = False
    """Whether a step also draws visible tokens anew that the network finds unlikely; revising then lets it."""
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
        known: Bool[Tensor, "B L"],
    ) -> Int[Tensor, "B L"]:
        """Change the tokens before the prediction; the step gets the changed ones, and the same random numbers."""
        del schedule, now, settings, u, known
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


def draw_posterior_step(x: StepInput, t: Int[Tensor, "B"]) -> Int[Tensor, "B L"]:
    """Draw x_s from p(x_s | x_t): x0 from the prediction, then x_s from q(x_s | x_t, x0).

    Which positions keep their token whatever x0 is, is drawn first; the network's head is evaluated at the others only.
    """
    q, (choice, u) = bridge(x.schedule, t.clamp(min=1), x.now.s), x.u
    at = places_of(q.undecided(x.tokens, choice) & (x.now.t > 0)[:, None])
    x0 = draw_categorical(x.settings.warp(x.prediction.at(at)), u.gather(1, at))
    return q.draw(torch.zeros_like(x.tokens).scatter(1, at, x0), x.tokens, choice)


def places_of(chosen: Bool[Tensor, "B L"]) -> Int[Tensor, "B N"]:
    """Return the chosen places of each row, then others, as many as in the row that has most.

    Where the host would have to wait for the device to know how many that are, all.
    """
    return largest(chosen.byte(), int(chosen.sum(1).max()) if chosen.is_cpu else chosen.shape[1])


def largest(keys: Tensor, count: int) -> Int[Tensor, "B N"]:
    """Return the places of the `count` largest keys of each row; of equals, the first."""
    return keys.argsort(dim=1, descending=True, stable=True)[:, :count]
