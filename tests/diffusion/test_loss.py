from __future__ import annotations

from collections.abc import Callable
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from exact_diffusion import PRESETS, schedules, transition
from golden_cases import Case, cases, load
from vqdiff.diffusion import DiffusionLoss, LossHistory, Schedule, diffusion_loss, posterior_log_probs, q_sample

pytestmark = pytest.mark.numeric


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(schedule: Schedule, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> DiffusionLoss:
    return diffusion_loss(schedule, logits, x0, xt, t, aux_weight=0.0, adaptive=False)


def states(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """(x0, xt, t), each (N,): every t, x0 and x_t that can follow."""
    K, found = schedule.num_codes, list[tuple[int, int, int]]()
    for t in range(1, schedule.num_steps + 1):
        Q = transition(schedule, 0, t)
        found += [(x0, xt, t) for x0 in range(K) for xt in range(K + 1) if Q[x0, xt] > 1e-12]
    x0, xt, t = torch.tensor(found).T
    return x0, xt, t


def direct(schedule: Schedule, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """KL(q(x_{t-1} | x_t, x0) ‖ p(x_{t-1} | x_t)) from the two distributions, which at t = 1 is -log p(x0 | x_1)."""
    one_hot = F.one_hot(x0, schedule.num_codes).double().log()
    q, p = (posterior_log_probs(schedule, x, xt, t).exp() for x in (one_hot, logits.log_softmax(-1)))
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum((1, 2))


# --- closed forms -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**31))
def test_bound_and_gradient_are_those_of_a_direct_evaluation(schedule: Schedule, seed: int) -> None:
    x0, xt, t = states(schedule)
    logits = random_logits(len(t), 1, schedule.num_codes, seed=seed).requires_grad_()
    x0, xt = x0[:, None], xt[:, None]
    ours, expected = loss(schedule, logits, x0, xt, t).total, direct(schedule, logits, x0, xt, t)
    assert torch.allclose(ours, expected, rtol=1e-7, atol=1e-8)
    gradients = (torch.autograd.grad(x.sum(), logits)[0] for x in (ours, expected))
    ours, expected = gradients
    known = expected.isfinite()  # the direct way fails where p is 0, as off x_t without replacement
    assert torch.allclose(ours[known], expected[known], rtol=1e-6, atol=1e-8)
    assert ours.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_by_finite_differences(preset: Callable[[int, int], Schedule]) -> None:
    schedule = preset(4, 3)
    x0, xt, t = states(schedule)
    logits = random_logits(len(t), 1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(schedule, x, x0[:, None], xt[:, None], t).total, logits)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_sum_over_all_times_is_the_entropy_of_the_data(preset: Callable[[int, int], Schedule]) -> None:
    """For the perfect network the bound is tight: Σ_t E[loss_t] = H(x0) - I(x0; x_T), one token, by enumeration."""
    schedule, data = preset(6, 3), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    x0, xt, t = states(schedule)
    forward = torch.stack([transition(schedule, 0, step)[:-1] for step in range(7)])  # (t, x0, xt)
    joint = data[:, None] * forward
    perfect = (joint / joint.sum(1, keepdim=True)).transpose(1, 2)[t, xt].clamp(min=0)  # p(x0 | x_t), but for rounding
    terms = loss(schedule, perfect.log()[:, None], x0[:, None], xt[:, None], t).total
    total = (joint[t, x0, xt] * terms.where(joint[t, x0, xt] > 0, 0)).sum()
    entropy = -torch.xlogy(data, data).sum()
    last = joint[-1]
    information = torch.xlogy(last, last / (last.sum(0) * data[:, None]).clamp(min=1e-300)).sum()
    assert torch.allclose(total, entropy - information, atol=1e-9)


def test_without_replacement_the_loss_is_a_weighted_cross_entropy() -> None:
    """1 / t of the masked tokens leave in step t, and nothing else is to be learned."""
    schedule, t = Schedule.mask_only(10, 5), torch.arange(1, 11)
    x0, logits = torch.randint(5, (10, 30)), random_logits(10, 30, 5)
    xt = q_sample(schedule, x0, t)
    entropies = F.cross_entropy(logits.mT, x0, reduction="none")
    expected = (entropies * (xt == 5)).sum(1) / t
    terms = loss(schedule, logits, x0, xt, t)
    assert torch.allclose(terms.total, expected)
    assert torch.allclose(terms.aux, entropies.sum(1))


def test_terms_and_their_weights() -> None:
    schedule, t = Schedule.paper(10, 5), torch.arange(1, 11)
    x0, logits = torch.randint(5, (10, 30)), random_logits(10, 30, 5)
    xt = q_sample(schedule, x0, t)
    masked, entropies = xt == 5, F.cross_entropy(logits.mT, x0, reduction="none")
    plain = loss(schedule, logits, x0, xt, t)
    per_token = torch.stack([loss(schedule, logits[:, [i]], x0[:, [i]], xt[:, [i]], t).bound for i in range(30)], 1)
    assert torch.allclose(per_token.sum(1), plain.bound)

    terms = diffusion_loss(schedule, logits, x0, xt, t, aux_weight=0.3, adaptive=True, mask_weight=(0.5, 2.0))
    weight = torch.where(masked, 0.5, 2.0)
    weight[0] = 1.0  # the likelihood at t = 1, and what is added to it
    assert torch.allclose(terms.bound, (per_token * weight).sum(1))
    assert torch.allclose(terms.aux, (entropies * weight).sum(1))
    assert torch.allclose(terms.total, terms.bound + 0.3 * (2 - (t - 1) / 10) * terms.aux)
    assert torch.equal(terms.kl > 0, t > 1)
    assert torch.equal(terms.nll > 0, t == 1)
    assert torch.allclose(terms.nll[0], entropies[0].sum())

    constant = diffusion_loss(schedule, logits, x0, xt, t, aux_weight=0.3, adaptive=False)
    assert torch.allclose(constant.total, plain.bound + 0.3 * entropies.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_extreme_logits(preset: Callable[[int, int], Schedule], dtype: torch.dtype) -> None:
    schedule = preset(5, 3)
    x0, xt, t = (x[:, None] for x in states(schedule))
    for values in ([1e4, -1e4, 0], [0, 1e4, -1e4], [-1e4, 0, 1e4], [1e4, 1e4, 1e4]):
        logits = torch.tensor(values, dtype=dtype).expand(len(t), 1, 3).clone().requires_grad_()
        terms = diffusion_loss(schedule, logits, x0, xt, t[:, 0], aux_weight=1e-3, adaptive=True)
        terms.total.sum().backward()
        for x in (terms.kl, terms.nll, terms.aux, terms.total, logits.grad):
            assert x is not None
            assert x.isfinite().all()
        assert terms.bound.min() > -1e-6


def test_float32_is_near_float64() -> None:
    schedule, K = Schedule.published(100, 1024), 1024
    t = torch.tensor([1, 2, 50, 99, 100])
    x0, logits = torch.randint(K, (5, 64)), random_logits(5, 64, K)
    xt = q_sample(schedule, x0, t)
    single, double = (loss(schedule, x, x0, xt, t).total.double() for x in (logits.float(), logits))
    assert torch.allclose(single, double, rtol=1e-5)


# --- importance sampling ----------------------------------------------------------------------------------------------


def test_times_are_drawn_uniformly_until_all_are_known() -> None:
    history, t = LossHistory(4), torch.tensor([1, 2, 3])
    for _ in range(20):
        history.update(t, torch.tensor([9.0, 1.0, 1.0]))
    assert history.probabilities().tolist() == [0.25] * 4
    for _ in range(11):
        history.update(torch.tensor([4]), torch.tensor([3.0]))
    assert history.probabilities().argmax() == 3


def test_times_are_drawn_in_proportion_to_the_size_of_their_loss() -> None:
    history, losses = LossHistory(4), torch.tensor([100.0, 1.0, 2.0, 5.0])
    for _ in range(200):
        history.update(torch.arange(1, 5), losses)
    expected = torch.tensor([1, 1, 2, 5]) / 9  # t = 1 counts as t = 2
    assert torch.allclose(history.probabilities(), expected.double(), atol=1e-4)
    t, p = history.sample(100_000)
    assert torch.equal(p, history.probabilities()[t - 1])
    counts = t.bincount(minlength=5)[1:]
    assert chisquare(counts, history.probabilities() * 100_000).pvalue > 1e-4
    assert abs((losses[t - 1] / p).mean() - losses.sum()) < 0.02 * losses.sum()  # unbiased


def test_one_step_of_history() -> None:
    history = LossHistory(3)
    history.update(torch.tensor([2]), torch.tensor([3.0]))
    history.update(torch.tensor([2]), torch.tensor([5.0]))
    assert torch.allclose(history.second_moment, torch.tensor([0, 0.9 * 0.9 + 2.5, 0]).double())
    assert history.count.tolist() == [0, 2, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0, 100)), min_size=1, max_size=8), st.randoms())
def test_the_order_of_the_batch_does_not_matter(pairs: list[tuple[int, float]], random: st.DataObject) -> None:
    """And images that cost the same move the history as they would have one after the other."""
    histories = [LossHistory(3), LossHistory(3), LossHistory(3)]
    shuffled = sorted(pairs, reverse=True)
    for history, batch in zip(histories, (pairs, shuffled), strict=False):
        history.update(torch.tensor([t for t, _ in batch]), torch.tensor([x for _, x in batch]).double())
    assert torch.allclose(histories[0].second_moment, histories[1].second_moment, rtol=1e-12)

    batch = torch.tensor([t for t, _ in pairs])
    histories[1].load_state_dict(histories[2].state_dict())
    histories[1].update(batch, torch.full((len(batch),), 7.0))
    for t in batch:
        histories[2].update(t[None], torch.tensor([7.0]))
    assert torch.allclose(histories[1].second_moment, histories[2].second_moment)


def test_history_round_trip() -> None:
    history, copy = LossHistory(3), LossHistory(3)
    history.update(torch.tensor([1, 3, 3]), torch.tensor([1.0, 2.0, 3.0]))
    copy.load_state_dict(history.state_dict())
    for each in (history, copy):
        each.update(torch.tensor([2]), torch.tensor([4.0]))
    assert torch.equal(history.second_moment, copy.second_moment)
    assert torch.equal(history.count, copy.count)


# --- the published program --------------------------------------------------------------------------------------------

LOSSES = [case for case in cases("loss") if case["case"] != "importance_weights"]


def of_case(case: Case) -> Schedule:
    config = case["config"]
    return Schedule.linear(
        config["num_steps"],
        config["num_codes"],
        (config["alpha_bar_first"], config["alpha_bar_last"]),
        (config["gamma_bar_first"], config["gamma_bar_last"]),
    )


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["case"])
def test_golden_loss(case: Case) -> None:
    golden, config, tolerance, schedule = load(case), case["config"], case["tolerance"], of_case(case)
    x0, xt, t = golden["in/x0"], golden["in/x_t"], golden["in/t"] + 1
    logits = golden["in/logits"].mT.clone().requires_grad_()
    terms = diffusion_loss(
        schedule,
        logits,
        x0,
        xt,
        t,
        aux_weight=float(config["auxiliary_weight"]),
        adaptive=config["adaptive_auxiliary"],
        mask_weight=(float(config["mask_weight_masked"]), float(config["mask_weight_visible"])),
    )
    per_sample = terms.total / golden["in/p_t"]
    scalar = per_sample.sum() / x0.numel()
    (gradient,) = torch.autograd.grad(scalar, logits)
    rtol = tolerance["loss_rtol"]
    assert torch.allclose(per_sample, golden["exp/loss_per_sample"], rtol=rtol)
    assert torch.allclose(scalar, golden["exp/loss"], rtol=rtol)
    grad = tolerance["grad"]
    assert torch.allclose(gradient.mT, golden["exp/grad_logits"], rtol=grad["rtol"], atol=grad["atol"])

    each = diffusion_loss(  # one position an image
        schedule,
        logits.flatten(0, 1)[:, None],
        x0.flatten()[:, None],
        xt.flatten()[:, None],
        t.repeat_interleave(x0.shape[1]),
        aux_weight=0.0,
        adaptive=False,
    )
    kl, nll, aux = (x.view_as(x0) for x in (each.kl, each.nll, each.aux))
    later, atol = t > 1, tolerance["per_token_atol"]
    assert torch.allclose(kl[later], golden["exp/kl_per_token"][later], atol=atol)
    assert torch.allclose(nll[~later], golden["exp/nll_per_token"][~later], atol=atol)
    if "exp/aux_kl_per_token" in golden:
        assert torch.allclose(aux, golden["exp/aux_kl_per_token"], atol=atol)

    one_hot = F.one_hot(x0, schedule.num_codes).double().log()
    for name, log_p0 in (("model", logits.log_softmax(-1)), ("true", one_hot)):
        expected = golden[f"exp/log_{name}_posterior"]
        built = posterior_log_probs(schedule, log_p0, xt, t).mT
        assert (built.exp() - expected.exp()).abs().max() <= atol


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["case"])
def test_golden_history(case: Case) -> None:
    golden, config = load(case), case["config"]
    history = LossHistory(config["num_steps"])
    history.load_state_dict({"second_moment": golden["in/loss_history"], "count": golden["in/loss_count"]})
    terms = diffusion_loss(
        of_case(case),
        golden["in/logits"].mT,
        golden["in/x0"],
        golden["in/x_t"],
        golden["in/t"] + 1,
        aux_weight=0.0,
        adaptive=False,
        mask_weight=(float(config["mask_weight_masked"]), float(config["mask_weight_visible"])),
    )
    history.update(golden["in/t"] + 1, terms.bound)
    assert torch.equal(history.count.float(), golden["exp/loss_count"])
    if "exp/loss_history" in golden:  # not given where steps repeat: the published code keeps any one of the writes
        rtol = case["tolerance"]["loss_history_rtol"]
        assert torch.allclose(history.second_moment.float(), golden["exp/loss_history"], rtol=rtol)


def test_golden_importance() -> None:
    (case,) = (case for case in cases("loss") if case["case"] == "importance_weights")
    golden, history = load(case), LossHistory(case["config"]["num_steps"])
    state = history.state_dict() | {"second_moment": golden["in/loss_history"]}
    history.load_state_dict(state | {"count": torch.full_like(state["count"], 10)})
    assert torch.allclose(history.probabilities(), torch.tensor(0.01).double())
    history.load_state_dict(state | {"count": torch.full_like(state["count"], 11)})
    assert torch.allclose(history.probabilities().float(), golden["exp/p_t"], rtol=case["tolerance"]["rtol"])


def test_published_numbers() -> None:
    """Loss and history for one small prediction, recorded at two steps."""
    schedule = Schedule.published(100, 4)
    x0, xt = torch.tensor([[0, 1, 3]]), torch.tensor([[4, 1, 4]])
    logits = torch.tensor([[[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.25] * 4]]).log()
    for t, expected, moment in ((1, 243.85524, 0.59346622), (51, 4.6735668, 2.0167805e-4)):
        history, t_ = LossHistory(100), torch.tensor([t])
        terms = diffusion_loss(schedule, logits, x0, xt, t_, aux_weight=5e-4, adaptive=True)
        history.update(t_, terms.bound)
        assert abs(terms.total / 0.01 - expected) < 5e-5 * expected  # of float32
        assert abs(history.second_moment[t - 1] - moment) < 1e-4 * moment
    assert abs(loss(schedule, logits, x0, xt, torch.tensor([1])).nll + log(0.7 * 0.5 * 0.25)) < 1e-6
