"""Mask-and-replace diffusion by brute force: transition matrices multiplied step by step, sums over every x0."""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor

from vqdiff.diffusion import Schedule

PRESETS = [Schedule.published, Schedule.paper, Schedule.mask_only, Schedule.uniform_only]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule of up to 8 steps and 5 codes, the presets among them."""
    num_steps, num_codes = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        return draw(st.sampled_from(PRESETS))(num_steps, num_codes)
    shares = st.floats(0.01, 1)
    visible, kept = draw(shares), draw(shares)  # at t = 1; of the visible tokens the share `kept` is not replaced
    visible_last = visible * draw(st.just(0.0) | st.floats(1e-3, 1))
    kept_last = kept * draw(st.floats(0, 1))
    return Schedule.linear(
        num_steps, num_codes, (visible * kept, visible_last * kept_last), (1 - visible, 1 - visible_last)
    )


@cache
def one_step(schedule: Schedule, t: int) -> Tensor:
    """q(x_t | x_{t-1}) as a (K+1, K+1) matrix, from its definition by ratios of the cumulative probabilities."""
    K = schedule.num_codes
    alpha = schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]
    gamma = 1 - (1 - schedule.gamma_bar[t]) / (1 - schedule.gamma_bar[t - 1])
    Q = torch.zeros(K + 1, K + 1, dtype=torch.float64)
    Q[:K, :K] = (1 - alpha - gamma) / K + alpha * torch.eye(K, dtype=torch.float64)
    Q[:K, K] = gamma
    Q[K, K] = 1
    return Q


@cache
def transition(schedule: Schedule, s: int, t: int) -> Tensor:
    """q(x_t | x_s) as a matrix, row x_s, column x_t."""
    Q = torch.eye(schedule.num_codes + 1, dtype=torch.float64)
    for step in range(s + 1, t + 1):
        Q = Q @ one_step(schedule, step)
    return Q


@cache
def possible(schedule: Schedule, t: int) -> list[int]:
    """The values, MASK = K among them, that x_t may have after x0, whichever x0 is."""
    return [x for x in range(schedule.num_codes + 1) if transition(schedule, 0, t)[:-1, x].min() > 1e-12]


def bridge(schedule: Schedule, s: int, t: int, xt: int) -> Tensor:
    """q(x_s | x_t, x0) as a (K, K+1) matrix, row x0, by Bayes' rule; x_t must be possible after every x0."""
    to_s = transition(schedule, 0, s)[:-1]
    joint = to_s * transition(schedule, s, t)[:, xt]
    return joint / joint.sum(1, keepdim=True)
