"""Which step happens when: a plan has one row per image and one column per step.

Images may differ in step count, start and number of masks; rows that finish early are padded with columns of t = 0,
which do nothing. A plan is made once, on the CPU, before the loop. Algorithms 1 and 2 are those of Improved
VQ-Diffusion (arXiv 2205.16007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.diffusion import Schedule
from vqdiff.foundation.shapes import Float, Int
from vqdiff.sampling.curves import remaining
from vqdiff.settings import SamplingSettings

__all__ = [
    "Plan",
    "PlanInput",
    "PlanStep",
    "corrected_plan",
    "join_rows",
    "looped_plan",
    "masked_step",
    "reference_fast_plan",
    "reference_reveal_plan",
    "reference_reveals",
    "reveal_plan",
    "strided_plan",
]


@dataclass(frozen=True)
class PlanInput:
    """What a plan is made from: tensors of shape (B,), int64, on the CPU.

    steps: as requested, >= 1; a plan has fewer where there is less to do. start: the time the tokens are at, 0..T.
    masked: masked positions, 0..num_tokens. settings: those of each image; without them, reveal curves are linear and
    there are no loops. masked_nll: the model's measurement, for the reveal curve measured; empty if there is none.
    """

    schedule: Schedule
    num_tokens: int
    steps: Int[Tensor, "B"]
    start: Int[Tensor, "B"]
    masked: Int[Tensor, "B"]
    settings: Sequence[SamplingSettings] | None = None
    masked_nll: tuple[float, ...] = ()


@dataclass(frozen=True)
class PlanStep:
    """One column of a plan: the next step of every image of the batch.

    t: the time passed to the denoiser, 0 where the image is finished. s: the time reached. reveal: masked positions to
    fill, 0 for samplers that leave the number to chance. most: the largest of `reveal`; left: the most that any image
    still has to fill, including this step; both known to the host.
    """

    t: Int[Tensor, "B"]
    s: Int[Tensor, "B"]
    reveal: Int[Tensor, "B"]
    most: int
    left: int


@dataclass(frozen=True)
class Plan:
    """The steps of every image of a batch: (B, S) tensors of the fields of `PlanStep`."""

    t: Int[Tensor, "B S"]
    s: Int[Tensor, "B S"]
    reveal: Int[Tensor, "B S"]

    @property
    def num_steps(self) -> int:
        """S, the number of steps of the image that has most."""
        return self.t.shape[1]

    def first(self, device: torch.device | str = "cpu") -> PlanStep:
        """Return the next step, with its tensors on `device`, without waiting for it."""
        t, s, reveal = (rows[:, 0].to(device, non_blocking=True) for rows in (self.t, self.s, self.reveal))
        return PlanStep(t, s, reveal, most=int(self.reveal[:, 0].max()), left=int(self.reveal.sum(1).max()))

    def rest(self) -> Plan:
        """Return the plan without its first step."""
        return Plan(self.t[:, 1:], self.s[:, 1:], self.reveal[:, 1:])

    def until(self, step: int) -> Plan:
        """Return the first ``step`` steps."""
        return Plan(self.t[:, :step], self.s[:, :step], self.reveal[:, :step])

    def select(self, rows: Int[Tensor, "N"] | slice) -> Plan:
        """Return the plan of some of the images."""
        return Plan(self.t[rows], self.s[rows], self.reveal[rows])

    def join(self, other: Plan) -> Plan:
        """Return the plan of these images and then those of `other`."""
        return Plan(join_rows(self.t, other.t), join_rows(self.s, other.s), join_rows(self.reveal, other.reveal))


def join_rows(a: Tensor, b: Tensor, value: int | float = 0) -> Tensor:
    """Put the rows of `b` (N, S) below those of `a` (M, R); the shorter ones are padded with `value`."""
    longest = max(a.shape[1], b.shape[1])
    return torch.cat([F.pad(x, (0, longest - x.shape[1]), value=value) for x in (a, b)])


def masked_step(schedule: Schedule, share: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Find the time whose `gamma_bar` is nearest a masked share in [0, 1] (last line of Algorithms 1 and 2).

    Returns 1..T where anything is masked and 0 where nothing is; of two equally near times the later.
    """
    gamma_bar = schedule.gamma_bar.to(share)
    upper = torch.searchsorted(gamma_bar, share).clamp(1, schedule.num_steps)
    nearest = torch.where(share - gamma_bar[upper - 1] < gamma_bar[upper] - share, upper - 1, upper)
    return nearest.clamp(min=1) * (share > 0)


def strided_plan(given: PlanInput) -> Plan:
    """Go from `start` to 0 in nearly equal strides."""
    times = remaining(given.start, given.steps)
    return Plan(times[:, :-1], times[:, 1:], torch.zeros_like(times[:, 1:]))


def corrected_plan(given: PlanInput) -> Plan:
    """Go from `start` to 0 in strides, with calls between the last ones that stay at the time reached (s = t).

    A bit more than half of the calls are strides, as there is none after the last one.
    """
    times = remaining(given.start, given.steps // 2 + 1)
    number = (times > 0).sum(1, keepdim=True)  # of the strides
    corrections = torch.minimum(given.steps[:, None] - number, number - 1).clamp(min=0)
    columns = torch.arange(times.shape[1])
    stays = (columns >= number - corrections) & (columns < number)
    return _visit(times, 1 + stays.long())


def looped_plan(given: PlanInput) -> Plan:
    """Go from `start` to 0 in nearly equal strides, with calls that stay where `alpha_bar` is nearest 0.9 (s = t).

    The share `renoise_loop` of the calls stays, but at least two are strides: one to that time, one from it. An image
    that starts there or later has strides only.
    """
    shares = torch.tensor([one.renoise_loop for one in given.settings or ()] or [0.0], dtype=torch.float64)
    place = int((given.schedule.alpha_bar[1:] - 0.9).abs().argmin()) + 1
    strides = (given.steps - (given.steps * shares).round().long()).clamp(min=2)
    stays = torch.where(given.start > place, given.steps - strides, 0).clamp(min=0)
    looped = stays > 0
    strides, place = torch.where(looped, strides, given.steps), place * looped
    last = (strides * place / given.start.clamp(min=1)).round().long().clamp(min=1)  # strides from the loop to 0
    last = torch.minimum(last, strides - 1) * looped
    above, below = place[:, None] + remaining(given.start - place, strides - last), remaining(place, last)
    visits = torch.ones_like(below)
    visits[:, 0] += stays
    return _visit(torch.cat([above, below], 1), torch.cat([(above > place[:, None]).long(), visits], 1))


def _visit(times: Int[Tensor, "B N"], visits: Int[Tensor, "B N"]) -> Plan:
    """Go through the `times`, each as often as `visits` says, until 0 is reached; a call between equal ones stays."""
    rows = [row.repeat_interleave(count) for row, count in zip(times, visits, strict=True)]
    path = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    path = path[:, : max(1, int((path > 0).sum(1).max())) + 1]
    return Plan(path[:, :-1], path[:, 1:], torch.zeros_like(path[:, 1:]))


def reveal_plan(given: PlanInput) -> Plan:
    """Fill the masked positions along a reveal curve, at the times that match what is left (Algorithms 1 and 2)."""
    curves = None if given.settings is None else [(one.curve, one.curve_power) for one in given.settings]
    left = remaining(given.masked, given.steps, curves, given.masked_nll, given.num_tokens)
    times = masked_step(given.schedule, left.double() / given.num_tokens)
    return Plan(times[:, :-1], times[:, 1:], left[:, :-1] - left[:, 1:])


def reference_fast_plan(given: PlanInput, skip: int | None = None) -> Plan:
    """Repeat the times of the published fast sampler: a call every `skip` + 1 times, and one at t = 1.

    s is where its posterior ends, after one *single* step from s + 1: t - skip - 1, or t - 1 near the end. So too
    few positions leave MASK, and all the rest are sampled in the last step.

    skip: None for the smallest that needs at most `steps` calls (at least two, unless start is 1).
    """
    start, steps = given.start[:, None], given.steps[:, None].clamp(min=2)
    stride = _ceil_divide(start - 1, steps - 1).clamp(min=1) if skip is None else torch.full_like(start, skip + 1)
    last = _ceil_divide(start - 1, stride).clamp(min=0)  # the column of the call at t = 1
    columns = torch.arange(int(last.max()) + 1)
    t = (start - columns * stride).clamp(min=1) * (columns <= last) * (start > 0)
    s = torch.where(t > stride, t - stride, t - 1).clamp(min=0)
    return Plan(t, s, torch.zeros_like(t))


def _ceil_divide(a: Tensor, b: Tensor) -> Tensor:
    return -(-a // b)


_PUBLISHED_TOKENS = 1024
_PUBLISHED_REVEALS: dict[int, tuple[int, ...]] = {
    100: (1, 10, *(11, 10, 10) * 32, 11, 11),
    50: (10, *(21, 20) * 24, 30),
    25: (21, *(41,) * 23, 60),
    10: (69, *(102,) * 8, 139),
}
_PUBLISHED_FEW = {100: (1, 6, *(11, 10, 10) * 32, 11, 15)}  # instead, when a call reveals at most ten tokens


def reference_reveals(num_steps: int, num_tokens: int, most: int | None = None) -> tuple[int, ...]:
    """Return the published number of tokens to reveal at each time 1..T, for calls that reveal at most `most`.

    The tables exist for T in {100, 50, 25, 10} and 1,024 tokens. They are scaled to other grids; for another T the
    tokens are spread evenly.
    """
    tables = _PUBLISHED_REVEALS | (_PUBLISHED_FEW if most is not None and most <= 10 else {})
    table, total = tables.get(num_steps, (1,) * num_steps), _PUBLISHED_TOKENS if num_steps in tables else num_steps
    done = (count * num_tokens // total for count in accumulate(reversed(table), initial=0))
    return tuple(after - before for before, after in pairwise(done))[::-1]


def reference_reveal_plan(given: PlanInput, reveals: Sequence[int], most: int | None = None) -> Plan:
    """Repeat the published reveal loop: from start down, `reveals[t - 1]` tokens at t, and at t = 1 all positions.

    most: the largest number a call reveals; more calls are made at the same t, except for a single leftover token.
    Times with nothing to reveal have no call. `given.steps` is ignored.
    """
    calls: list[tuple[int, int, int]] = []
    for t in range(len(reveals), 1, -1):
        left = reveals[t - 1]
        while left > 0:
            count = min(left, most or left)
            count += left - count == 1
            left -= count
            calls.append((t, t if left else t - 1, count))
    calls.append((1, 0, given.num_tokens))
    table = F.pad(torch.tensor(calls), (0, 0, 0, 1))  # and a row of zeros: nothing to do
    skipped = (torch.tensor(calls)[:, 0] > given.start[:, None]).sum(1)
    columns = skipped[:, None] + torch.arange(max(1, len(calls) - int(skipped.min())))
    return Plan(*table[columns.clamp(max=len(calls))].unbind(-1))
