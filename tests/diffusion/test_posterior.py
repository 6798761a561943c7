from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from exact_diffusion import PRESETS, bridge, possible, schedules
from golden_cases import Case, cases, load
from vqdiff.diffusion import (
    Schedule,
    draw_categorical,
    draw_posterior,
    posterior_log_probs,
    sample_posterior,
)
from vqdiff.diffusion import bridge as closed_form
from vqdiff.foundation.errors import InputError

pytestmark = pytest.mark.numeric

LARGEST = 1 - 2**-53  # the largest uniform


def predictions(*shape: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    """Random float64 log-probabilities."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (logits * spread).log_softmax(-1)


def strides(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Every s < t."""
    s, t = torch.tensor([(s, t) for t in range(1, schedule.num_steps + 1) for s in range(t)]).T
    return s, t


# --- the built posterior ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**31), st.floats(0.1, 10))
def test_posterior_is_the_sum_over_every_x0(schedule: Schedule, seed: int, spread: float) -> None:
    """All strides s < t in one batch, s = 0 among them, and every x_t that is possible."""
    K = schedule.num_codes
    s, t = strides(schedule)
    log_p0 = predictions(len(t), K + 1, K, seed=seed, spread=spread)
    xt = torch.arange(K + 1).expand(len(t), -1)
    built = posterior_log_probs(schedule, log_p0, xt, t, s).exp()
    assert (built.sum(-1) - 1).abs().max() < 1e-9
    for row, (s_, t_) in enumerate(zip(s.tolist(), t.tolist(), strict=True)):
        for x in possible(schedule, t_):
            expected = log_p0[row, x].exp() @ bridge(schedule, s_, t_, x)
            assert (built[row, x] - expected).abs().max() < 1e-9, (s_, t_, x)


def test_s_is_one_step_below_t_by_default() -> None:
    schedule, log_p0, t = Schedule.paper(10, 4), predictions(3, 5, 4), torch.tensor([1, 6, 10])
    xt = torch.randint(5, (3, 5))
    by_default, said = (posterior_log_probs(schedule, log_p0, xt, t, s) for s in (None, t - 1))
    assert torch.equal(by_default, said)


@pytest.mark.parametrize("preset", [Schedule.published, Schedule.paper])
def test_at_s_0_the_posterior_is_the_prediction(preset: Callable[[int, int], Schedule]) -> None:
    """At every position, the visible ones too: the last step resamples all tokens."""
    log_p0 = predictions(3, 5, 4)
    xt, t = torch.arange(5).expand(3, -1), torch.tensor([1, 4, 9])
    built = posterior_log_probs(preset(10, 4), log_p0, xt, t, torch.zeros_like(t))
    assert (built[..., :-1] - log_p0).abs().max() < 1e-9
    assert (built[..., -1] == -torch.inf).all()


@pytest.mark.parametrize("preset", PRESETS[:3])
@pytest.mark.parametrize("spread", [0.1, 2, 30])
def test_lemma_1(preset: Callable[[int, int], Schedule], spread: float) -> None:
    """A masked position stays masked with gamma_bar[s] / gamma_bar[t], whatever is predicted."""
    schedule = preset(20, 7)
    s, t = strides(schedule)
    masked = torch.full((len(t), 6), 7)
    built = posterior_log_probs(schedule, predictions(len(t), 6, 7, spread=spread), masked, t, s)
    expected = (schedule.gamma_bar[s] / schedule.gamma_bar[t])[:, None]
    assert (built[..., -1].exp() - expected).abs().max() < 1e-12


def test_visible_tokens_are_never_masked() -> None:
    schedule = Schedule.paper(20, 7)
    s, t = strides(schedule)
    visible = torch.arange(7).expand(len(t), -1)
    built = posterior_log_probs(schedule, predictions(len(t), 7, 7), visible, t, s)
    assert (built[..., -1] == -torch.inf).all()


def test_where_nothing_is_replaced_visible_tokens_stay() -> None:
    """Also at t = T, where none could be left, and against the prediction."""
    schedule = Schedule.mask_only(20, 7)
    s, t = strides(schedule)
    visible = torch.arange(7).expand(len(t), -1)
    built = posterior_log_probs(schedule, predictions(len(t), 7, 7), visible, t, s).exp()
    assert (built - torch.eye(8, dtype=torch.float64)[:7]).abs().max() < 1e-12
    assert (built > 0).sum() == visible.numel()
    assert torch.equal(sample_posterior(schedule, predictions(len(t), 7, 7), visible, t, s), visible)


def test_masks_under_a_schedule_without_masks_become_codes() -> None:
    """They cannot occur there, but a caller may begin with them."""
    schedule, t = Schedule.uniform_only(20, 7), torch.tensor([20, 13, 1])
    built = posterior_log_probs(schedule, predictions(3, 5, 7), torch.full((3, 5), 7), t)
    assert (built[..., -1] == -torch.inf).all()
    assert (built.exp().sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_extreme_logits(preset: Callable[[int, int], Schedule], dtype: torch.dtype) -> None:
    schedule = preset(10, 5)
    logits = torch.tensor([1e4, -1e4, 0, 1e4, -1e4], dtype=dtype).expand(10, 6, 5)
    xt, t = torch.arange(6).expand(10, -1), torch.arange(1, 11)
    built = posterior_log_probs(schedule, logits.log_softmax(-1), xt, t)
    assert built.dtype == dtype
    assert not built.isnan().any()
    assert (built.exp().sum(-1) - 1).abs().max() < 4 * torch.finfo(dtype).eps
    drawn = sample_posterior(schedule, logits.log_softmax(-1), xt, t)
    assert drawn.min() >= 0
    assert built.gather(-1, drawn[..., None]).isfinite().all()


@pytest.mark.parametrize("codes", [3, 5])
def test_a_prediction_for_another_number_of_codes(codes: int) -> None:
    schedule, log_p0, xt, t = Schedule.paper(10, 4), predictions(2, 3, codes), torch.zeros(2, 3).long(), torch.ones(2)
    with pytest.raises(InputError, match="schedule of 4 codes"):
        posterior_log_probs(schedule, log_p0, xt, t.long())
    with pytest.raises(InputError, match="schedule of 4 codes"):
        sample_posterior(schedule, log_p0, xt, t.long())


# --- the exact draw ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_the_draw_follows_the_built_posterior(preset: Callable[[int, int], Schedule]) -> None:
    """Chi-square on a million draws, for seven strides and every possible x_t."""
    schedule, K, copies = preset(10, 4), 4, 30_000
    pairs = torch.tensor([(0, 1), (0, 10), (1, 2), (2, 7), (5, 6), (7, 9), (9, 10)])
    s, t = pairs.T
    log_p0 = predictions(7, K + 1, K)
    log_p0[:, :, 1] = -torch.inf  # as after truncation
    log_p0 = log_p0.log_softmax(-1)
    xt = torch.arange(K + 1).expand(7, -1)
    expected = posterior_log_probs(schedule, log_p0, xt, t, s).exp() * copies
    drawn = sample_posterior(
        schedule, log_p0.float().repeat_interleave(copies, 1), xt.repeat_interleave(copies, 1), t, s
    ).view(7, K + 1, copies)
    assert drawn.numel() >= 1_000_000
    pvalues = list[float]()
    for row in range(7):
        for x in possible(schedule, int(t[row])):
            observed = drawn[row, x].bincount(minlength=K + 1).double()
            common = expected[row, x] > 5
            assert observed[expected[row, x] == 0].sum() == 0
            assert observed[~common].sum() <= 30
            if common.sum() > 1:
                weight = expected[row, x, common] / expected[row, x, common].sum()
                pvalues.append(float(chisquare(observed[common], weight * observed[common].sum()).pvalue))
    assert len(pvalues) >= 6
    assert min(pvalues) > 1e-4
    assert sum(p < 0.05 for p in pvalues) <= 0.2 * len(pvalues)


def test_lemma_1_in_draws() -> None:
    """Who leaves MASK is settled by the first uniform alone, before the network is evaluated."""
    schedule, t, s = Schedule.published(10, 4), torch.tensor([7]), torch.tensor([3])
    u = torch.rand(2, 1, 1000, dtype=torch.float64)
    masked, stay = torch.full((1, 1000), 4), schedule.gamma_bar[3] / schedule.gamma_bar[7]
    for seed in range(3):
        drawn = draw_posterior(schedule, predictions(1, 1000, 4, seed=seed), masked, t, s, u)
        assert torch.equal(drawn == 4, u[0] < stay)


def test_every_position_is_drawn_from_its_own_inputs() -> None:
    """The same alone and in a batch, bit for bit."""
    schedule, B, L, K = Schedule.paper(10, 33), 5, 17, 33
    log_p0, xt = predictions(B, L, K).float(), torch.randint(K + 1, (B, L))
    t = torch.tensor([1, 3, 6, 9, 10])
    s, u = t // 2, torch.rand(2, B, L, dtype=torch.float64)
    together = draw_posterior(schedule, log_p0, xt, t, s, u)
    for row in range(B):
        i = slice(row, row + 1)
        assert torch.equal(draw_posterior(schedule, log_p0[i], xt[i], t[i], s[i], u[:, i]), together[i])
    some = torch.tensor([3, 11])
    assert torch.equal(draw_posterior(schedule, log_p0[:, some], xt[:, some], t, s, u[..., some]), together[:, some])


def test_sample_posterior_belongs_to_its_generator() -> None:
    schedule, log_p0, t = Schedule.paper(10, 4), predictions(3, 50, 4), torch.tensor([2, 5, 9])
    xt = torch.randint(5, (3, 50))
    one, two = (
        sample_posterior(schedule, log_p0, xt, t, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, sample_posterior(schedule, log_p0, xt, t))


# --- categorical draws ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any), st.floats(0, LARGEST))
def test_draw_categorical_inverts_the_distribution_function(weights: list[int], u: float) -> None:
    p = torch.tensor(weights, dtype=torch.float64)
    drawn = int(draw_categorical(p.log(), torch.tensor(u, dtype=torch.float64)))
    assert weights[drawn] > 0
    below, total = sum(weights[:drawn]), sum(weights)
    assert below <= u * total * (1 + 1e-12)
    assert u * total * (1 - 1e-12) <= below + weights[drawn]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 1e-300, 0.5, LARGEST])
def test_a_class_of_probability_0_is_never_drawn(dtype: torch.dtype, u: float) -> None:
    log_p = torch.full((9, 1000), -torch.inf, dtype=dtype)
    log_p[range(9), torch.arange(9) * 111 + 7] = torch.tensor([-100, -80, -50, -10, -1, 0, 1, 10, 50], dtype=dtype)
    drawn = draw_categorical(log_p, torch.full((9,), u, dtype=torch.float64))
    assert drawn.tolist() == [n * 111 + 7 for n in range(9)]


def test_sums_are_accurate_for_many_classes() -> None:
    """In float32 the cumulative sum would be off by several classes at the end."""
    K = 2**17 + 1
    log_p = torch.zeros(1, K).log_softmax(-1)
    for code in (0, K // 2, K - 2, K - 1):
        u = torch.tensor([(code + 0.5) / K], dtype=torch.float64)
        assert draw_categorical(log_p, u) == code


# --- the published program --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("posterior"), ids=lambda case: case["case"])
def test_golden_posterior(case: Case) -> None:
    golden, config, tolerance = load(case), case["config"], case["tolerance"]
    schedule = Schedule.linear(
        config["num_steps"],
        config["num_codes"],
        (config["alpha_bar_first"], config["alpha_bar_last"]),
        (config["gamma_bar_first"], config["gamma_bar_last"]),
    )
    log_p0 = golden["in/log_p_x0"][:, :-1].mT  # without the row for MASK, which is never predicted
    built = posterior_log_probs(schedule, log_p0, golden["in/x_t"], golden["in/t"] + 1).mT
    expected = golden["exp/log_posterior"]
    assert (built.exp() - expected.exp()).abs().max() <= tolerance["prob_atol"]
    if "log_atol" in tolerance:
        meaningful = expected > -46  # below there are the floors of the published code: log 1e-30 and -70
        assert (built - expected)[meaningful].abs().max() <= tolerance["log_atol"]
    if "exp/posterior_exact_f64" in golden:
        exact = posterior_log_probs(schedule, log_p0.double(), golden["in/x_t"], golden["in/t"] + 1).mT.exp()
        assert (exact - golden["exp/posterior_exact_f64"]).abs().max() < 5e-7  # as far as float32 input goes


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**31))
def test_what_is_decided_before_the_network_speaks(schedule: Schedule, seed: int) -> None:
    """A position is undecided if and only if some two x0 lead to different x_s."""
    K, (s, t) = schedule.num_codes, strides(schedule)
    choice = torch.rand(len(t), 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    xt = torch.arange(40).remainder(K + 1).expand(len(t), -1)
    way = closed_form(schedule, t, s)
    each = torch.stack([way.draw(torch.full_like(xt, x0), xt, choice) for x0 in range(K)])
    differ = (each != each[0]).any(0)
    open_ = way.undecided(xt, choice)
    assert not (differ & ~open_).any()
    if K > 2:  # of two codes, x0 and a uniform one may be the same
        assert (differ == open_)[xt == K].all()


def test_few_positions_are_undecided_in_one_step_of_many() -> None:
    """About L / T of the masked ones at every time, and as few of the visible ones, with the published schedule."""
    schedule, t = Schedule.published(100, 1000), torch.arange(2, 101)
    choice = torch.rand(99, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for xt in (torch.full((99, 4000), 1000), torch.zeros(99, 4000, dtype=torch.int64)):
        share = closed_form(schedule, t, t - 1).undecided(xt, choice).double().mean(1)
        expected = 1 / (t - 1 if xt[0, 0] == 1000 else 101 - t).double()  # L / T on the average over all times
        torch.testing.assert_close(share, expected, rtol=0.15, atol=0.02)
