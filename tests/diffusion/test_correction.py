"""One token given all others, against the joint distribution of all tokens, enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, leave_one_out, token_log_probs
from vqdiff.foundation.errors import InputError

T, K, L = 10, 3, 2
STATES = torch.tensor(list(itertools.product(range(K + 1), repeat=L)))  # of x_t, MASK = K
DATA = torch.tensor(list(itertools.product(range(K), repeat=L)))


def joint_of_data() -> Tensor:
    """Some p(x0) in which the positions depend on each other, and one image is impossible."""
    p = torch.tensor([5, 1, 0, 2, 3, 7, 4, 1, 6], dtype=torch.float64)
    return p / p.sum()


def forward(schedule: Schedule, t: int) -> Tensor:
    """Return q(x_t | x0) as a table (states, data)."""
    alpha_bar, beta_bar, gamma_bar = schedule.marginal(torch.tensor(t))
    x_t, x_0 = STATES[:, None], DATA[None]
    each = torch.where(x_t == K, gamma_bar, alpha_bar * (x_t == x_0) + beta_bar)
    return each.prod(-1)


def predictions(schedule: Schedule, t: int, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return q(x_t) of all states, and log p(x0_i | x_t) of the given ones: what a perfect network predicts."""
    joint = forward(schedule, t) * joint_of_data()
    index = (states * (K + 1) ** torch.arange(L - 1, -1, -1)).sum(-1)
    posterior = joint[index] / joint[index].sum(1, keepdim=True)
    p0 = torch.stack([torch.stack([posterior[:, DATA[:, i] == k].sum(1) for k in range(K)], -1) for i in range(L)], 1)
    return joint.sum(1), p0.log()


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.uniform_only], ids=["both", "replace"])
@pytest.mark.parametrize("t", [1, 5, 9])
def test_it_is_the_conditional_of_the_joint(make: Callable[[int, int], Schedule], t: int) -> None:
    schedule = make(T, K)
    possible = STATES if make == Schedule.paper else DATA
    q, log_p0 = predictions(schedule, t, possible)
    found = token_log_probs(schedule, log_p0, possible, torch.full((len(possible),), t)).exp()
    table = q.view((K + 1,) * L)
    for state, row in zip(possible.tolist(), found, strict=True):
        for i in range(L):
            others = [slice(None) if position == i else state[position] for position in range(L)]
            conditional = table[tuple(others)] / table[tuple(others)].sum()
            torch.testing.assert_close(row[i], conditional, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [3, 8])
def test_redrawing_a_masked_position_is_exact_without_replacement(t: int) -> None:
    """With masks alone, the position is masked, predicted, and drawn: q(x_t) is unchanged."""
    schedule = Schedule.mask_only(T, K)
    q, _ = predictions(schedule, t, STATES[-1:])
    after = torch.zeros((K + 1,) * L, dtype=torch.float64)
    for state, weight in zip(STATES, q, strict=True):
        masked = state.clone()
        masked[0] = K
        if weight == 0:
            continue
        _, log_p0 = predictions(schedule, t, masked[None])
        after[:, state[1]] += (
            weight * token_log_probs(schedule, log_p0[:, :1], masked[None, :1], torch.tensor([t]))[0, 0].exp()
        )
    torch.testing.assert_close(after.flatten(), q, rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.uniform_only], ids=["both", "replace"])
def test_redrawing_one_position_keeps_the_distribution_and_two_do_not(make: Callable[[int, int], Schedule]) -> None:
    schedule, t = make(T, K), 5
    possible = STATES if make == Schedule.paper else DATA
    q, log_p0 = predictions(schedule, t, possible)
    p = token_log_probs(schedule, log_p0, possible, torch.full((len(possible),), t)).exp()
    table = q.view((K + 1,) * L)
    one, two = torch.zeros_like(table), torch.zeros_like(table)
    for state, row in zip(possible.tolist(), p, strict=True):
        weight = table[tuple(state)]
        one[:, state[1]] += weight * row[0]
        two += weight * row[0][:, None] * row[1][None]
    torch.testing.assert_close(one, table, rtol=0, atol=1e-15)
    assert (two - table).abs().sum() / 2 > 0.005  # total variation


def test_a_masked_token_says_nothing() -> None:
    log_p0 = torch.randn(2, 4, K).log_softmax(-1)
    masked = torch.full((2, 4), K)
    torch.testing.assert_close(leave_one_out(Schedule.mask_only(T, K), log_p0, masked, torch.tensor([1, 9])), log_p0)


def test_a_visible_token_needs_replacement() -> None:
    log_p0 = torch.randn(1, 2, K).log_softmax(-1)
    with pytest.raises(InputError, match="mask the positions to redraw before the prediction"):
        token_log_probs(Schedule.mask_only(T, K), log_p0, torch.tensor([[0, K]]), torch.tensor([5]))
