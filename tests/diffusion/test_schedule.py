from __future__ import annotations

import json
from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from exact_diffusion import PRESETS, one_step, schedules, transition
from golden_cases import Case, cases, load
from vqdiff.diffusion import Schedule, draw_forward, q_sample
from vqdiff.foundation.errors import InputError

pytestmark = pytest.mark.numeric

T, K = 100, 31


def matrix(schedule: Schedule, s: int, t: int) -> Tensor:
    """The matrix that `schedule.kernel` describes."""
    alpha, beta, gamma = schedule.kernel(torch.tensor(s), torch.tensor(t))
    K = schedule.num_codes
    Q = torch.full((K + 1, K + 1), float(beta), dtype=torch.float64)
    Q[:K, :K] += alpha * torch.eye(K, dtype=torch.float64)
    Q[:K, K], Q[K, :K], Q[K, K] = gamma, 0, 1
    return Q


def of_case(case: Case) -> Schedule:
    config = case["config"]
    return Schedule.linear(
        config["num_steps"],
        config["num_codes"],
        (config["alpha_bar_first"], config["alpha_bar_last"]),
        (config["gamma_bar_first"], config["gamma_bar_last"]),
    )


# --- closed forms -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(schedules())
def test_marginals_are_probabilities_that_go_from_clean_to_the_ends(schedule: Schedule) -> None:
    alpha, beta, gamma = schedule.alpha_bar, schedule.beta_bar, schedule.gamma_bar
    assert (alpha + schedule.num_codes * beta + gamma - 1).abs().max() < 1e-14
    assert min(alpha.min(), beta.min(), gamma.min()) >= 0
    assert (alpha[0], beta[0], gamma[0]) == (1, 0, 0)
    assert (alpha[-1], gamma[-1]) == (schedule.alpha_bar_ends[1], schedule.gamma_bar_ends[1])
    if schedule.num_steps > 1:
        assert (alpha[1], gamma[1]) == (schedule.alpha_bar_ends[0], schedule.gamma_bar_ends[0])


@settings(deadline=None)
@given(schedules(), st.data())
def test_kernels_are_stochastic_and_compose(schedule: Schedule, data: st.DataObject) -> None:
    """Chapman–Kolmogorov: any two strides make the stride across both, and unit strides the definition."""
    s, t, u = sorted(data.draw(st.integers(0, schedule.num_steps), label="time") for _ in range(3))
    if t == schedule.num_steps:  # where all may be masked, so that nothing is known of what follows
        s, t = min(s, t - 1), t - 1
    Q = matrix(schedule, s, u)
    assert (Q.sum(1) - 1).abs().max() < 1e-9
    assert Q.min() >= 0
    assert (matrix(schedule, s, t) @ matrix(schedule, t, u) - Q).abs().max() < 1e-9
    assert (transition(schedule, s, u) - Q).abs().max() < 1e-9


@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_up_to_the_last_time(preset: Callable[[int, int], Schedule]) -> None:
    schedule = preset(5, 3)
    for s in range(5):
        assert (matrix(schedule, s, 5) - transition(schedule, s, 5)).abs().max() < 1e-10
    assert (matrix(schedule, 4, 5) - one_step(schedule, 5)).abs().max() < 1e-10


@settings(deadline=None)
@given(schedules())
def test_the_kernel_from_clean_is_the_marginal(schedule: Schedule) -> None:
    t = torch.arange(schedule.num_steps + 1)
    for kernel, marginal in zip(schedule.kernel(torch.zeros_like(t), t), schedule.marginal(t), strict=True):
        assert (kernel - marginal).abs().max() < 1e-14


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_presets(num_steps: int) -> None:
    t, T = torch.arange(1, num_steps + 1), num_steps
    published, paper, mask_only, uniform_only = (preset(T, K) for preset in PRESETS)
    assert torch.allclose(K * published.beta_bar[1:], torch.tensor(1e-6, dtype=torch.float64), rtol=1e-6, atol=0)
    assert abs(K * paper.beta_bar[T] - 0.1) < 1e-15
    assert paper.gamma_bar[T] == 0.9
    assert torch.allclose(mask_only.gamma_bar[1:], t.double() / T)
    assert torch.allclose(uniform_only.alpha_bar[1:], 1 - t.double() / T)
    # Exactly nothing, and not a rounding error, in the kernels as well:
    assert mask_only.beta_bar.count_nonzero() == mask_only.kernel(t - 1, t).beta.count_nonzero() == 0
    assert uniform_only.gamma_bar.count_nonzero() == uniform_only.kernel(t - 1, t).gamma.count_nonzero() == 0


def test_one_step_uses_the_last_ends() -> None:
    assert Schedule.linear(1, K, (0.5, 0.1), (0.2, 0.7)).alpha_bar.tolist() == [1, 0.1]


@pytest.mark.parametrize("num_steps", [2, 3, 7, 100])
@pytest.mark.parametrize("end", [0.8, 0.3, 1e-3])
def test_a_constant_share_of_replaced_tokens_is_no_error(num_steps: int, end: float) -> None:
    """The limit of what is allowed, which rounding must not push out."""
    assert Schedule.linear(num_steps, K, (0.9, end), (0.1, 1 - end)).beta_bar.count_nonzero() == 0
    assert Schedule.linear(num_steps, K, (0.63, end * 0.7), (0.1, 1 - end)).beta_bar[1:].min() > 0


# --- a value ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(schedules())
def test_config_round_trip(schedule: Schedule) -> None:
    copy = Schedule.from_config(json.loads(json.dumps(schedule.to_config())))
    assert copy == schedule
    assert hash(copy) == hash(schedule)
    assert torch.equal(copy.beta_bar, schedule.beta_bar)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_steps": 10, "num_codes": 4, "kind": "cosine"},
        {"num_steps": 10, "num_codes": 4, "alpha_bar": [0.9, 0.5, 0.1]},
        {"num_steps": 10, "num_codes": 4, "alpha_bar": [0.1, 0.9]},
    ],
)
def test_a_config_that_describes_no_schedule(config: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Schedule.from_config(config)


@pytest.mark.parametrize(
    ("alpha_bar", "gamma_bar", "says"),
    [
        ((0.5, 0.6), (0.1, 0.2), "must not rise"),
        ((0.6, 0.5), (0.2, 0.1), "must not fall"),
        ((0.9, 0.5), (0.2, 0.2), "sum must not exceed 1"),
        ((0.9, -0.1), (0.1, 0.2), "negative"),
        ((float("nan"), 0.0), (0.1, 0.2), "must not rise"),
        ((0.0, 0.0), (0.1, 0.2), "above 0 at t = 1"),
        ((0.5, 0.4), (0.1, 0.6), "change back"),
    ],
)
def test_impossible_ends(alpha_bar: tuple[float, float], gamma_bar: tuple[float, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Schedule.linear(10, 4, alpha_bar, gamma_bar)


@pytest.mark.parametrize(("num_steps", "num_codes"), [(0, 4), (10, 0)])
def test_a_schedule_of_nothing(num_steps: int, num_codes: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Schedule.linear(num_steps, num_codes)


def test_a_schedule_first_used_in_inference_can_be_trained_with() -> None:
    schedule = Schedule.linear(11, 7)
    with torch.inference_mode():
        schedule.marginal(torch.tensor([3]))
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    (x * schedule.marginal(torch.tensor([3])).alpha).sum().backward()
    assert x.grad == schedule.alpha_bar[3]


# --- forward noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_q_sample_follows_the_marginal(preset: Callable[[int, int], Schedule]) -> None:
    schedule, t, draws = preset(10, 4), torch.arange(11), 100_000
    x0 = torch.full((11, draws), 2)
    xt = q_sample(schedule, x0, t)
    assert torch.equal(xt[0], x0[0])
    for row in range(1, 11):
        expected = transition(schedule, 0, row)[2] * draws
        observed = xt[row].bincount(minlength=5).double()
        common = expected > 5
        assert observed[expected < 1e-9].sum() == 0
        if common.sum() > 1:
            weight = expected[common] / expected[common].sum()
            assert chisquare(observed[common], weight * observed[common].sum()).pvalue > 1e-4
        assert observed[~common].sum() <= 30


def test_q_sample_belongs_to_its_generator() -> None:
    schedule, x0, t = Schedule.paper(10, 4), torch.randint(4, (3, 50)), torch.tensor([2, 5, 9])
    one, two = (q_sample(schedule, x0, t, torch.Generator().manual_seed(seed)) for seed in (5, 5))
    assert torch.equal(one, two)
    assert not torch.equal(one, q_sample(schedule, x0, t))


def test_draw_forward_is_the_inverse_distribution_function() -> None:
    """Over an even grid of uniforms every outcome has its exact share: MASK first, then the codes, then x0."""
    schedule, draws = Schedule.uniform_only(10, 5), 10_000
    x0, u = torch.full((1, draws), 3), (torch.arange(draws) + 0.5)[None].double() / draws
    xt = draw_forward(schedule, x0, torch.tensor([4]), u)[0]
    assert xt.bincount().tolist() == [800, 800, 800, 6800, 800]
    xt = draw_forward(Schedule.mask_only(10, 5), x0, torch.tensor([4]), u)[0]
    assert xt.bincount().tolist() == [0, 0, 0, 6000, 0, 4000]


# --- the published program --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("schedule"), ids=lambda case: case["case"])
def test_golden_schedule(case: Case) -> None:
    golden, schedule = load(case), of_case(case)
    t = torch.arange(1, schedule.num_steps + 1)
    alpha, beta, gamma = schedule.kernel(t - 1, t)
    alpha_bar, beta_bar, gamma_bar = schedule.marginal(
        torch.cat([t, torch.zeros(1, dtype=t.dtype)])
    )  # theirs ends with t = 0
    ours = {"alpha": alpha, "beta": beta, "gamma": gamma}
    ours |= {"alpha_bar": alpha_bar, "beta_bar": beta_bar, "gamma_bar": gamma_bar}
    for name, value in ours.items():
        if f"exp/f64.{name}" in golden:
            # 1 - alpha - gamma cancels in the published code, not in ours; its notes allow 1e-6 for beta.
            rtol = 1e-6 if name.startswith("beta") else 1e-9
            assert torch.allclose(value, golden[f"exp/f64.{name}"], rtol=rtol, atol=1e-15)

    # Before April 2022 the rest was shared by K + 1 classes, though MASK never got its part; ours is the later rule.
    K = schedule.num_codes
    old = log(K / (K + 1)) if case["config"]["beta_denominator"] == "K+1" else 0.0
    logs = {"log_at": alpha.log(), "log_bt": beta.log() + old, "log_ct": gamma.log()}
    logs |= {"log_cumprod_at": alpha_bar.log(), "log_cumprod_bt": beta_bar.log() + old}
    logs |= {"log_cumprod_ct": gamma_bar.log(), "log_1_min_ct": (1 - gamma).log()}
    logs |= {"log_1_min_cumprod_ct": (1 - gamma_bar).log()}
    rtol, atol = case["tolerance"]["log_buffers"]["rtol"], case["tolerance"]["log_buffers"]["atol"]
    for name, value in logs.items():
        assert torch.allclose(value.float(), golden[f"exp/{name}"], rtol=rtol, atol=atol), name


@pytest.mark.parametrize("case", cases("forward"), ids=lambda case: case["case"])
def test_golden_forward(case: Case) -> None:
    golden, schedule = load(case), of_case(case)
    t = golden["in/t"] + 1
    rtol, atol = case["tolerance"]["rtol"], case["tolerance"]["atol"]
    for row, time in enumerate(t.tolist()):
        cumulative = matrix(schedule, 0, time)[golden["in/x0"][row]].T
        assert torch.allclose(cumulative.float(), golden["exp/q_xt_given_x0"][row], rtol=rtol, atol=atol)
        single = matrix(schedule, time - 1, time)[golden["in/x_prev"][row]].T
        assert torch.allclose(single, golden["exp/q_xt_given_xprev"][row], rtol=rtol, atol=atol)
