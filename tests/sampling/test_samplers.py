from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from exact_diffusion import transition
from golden_cases import cases, load
from vqdiff.diffusion import Schedule, draw_posterior, posterior_log_probs
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import options_of
from vqdiff.plugins import ORDERS, SAMPLERS
from vqdiff.sampling import (
    Canvas,
    Denoise,
    PlanInput,
    Prediction,
    ReferenceFast,
    ReferenceReveal,
    Reveal,
    Sampler,
    SamplingSettings,
    Strided,
    get_sampler,
    sample,
    samplers,
    uniforms,
)
from vqdiff.sampling.orders import by_purity, by_random
from vqdiff.sampling.plan import PlanStep
from vqdiff.sampling.samplers.renoised import renoised_share
from vqdiff.sampling.step import BatchSettings, StepInput, StepSettings

pytestmark = pytest.mark.numeric

EXAMPLE = Path(__file__).parents[2] / "examples" / "joint_distribution.py"
DRAWS = 20_000


@pytest.fixture(scope="module")
def oracle() -> Callable[[Schedule, Tensor, Tensor], Denoise]:
    return runpy.run_path(str(EXAMPLE))["oracle"]


def draw(denoise: Denoise, schedule: Schedule, sampler: Sampler | str, num_tokens: int, **settings: Any) -> Tensor:
    """Draw DRAWS samples from all MASK, in one step by default."""
    settings.setdefault("steps", 1)
    frames = sample(
        denoise,
        schedule,
        num_tokens=num_tokens,
        seeds=range(DRAWS),
        settings=SamplingSettings(guidance=1.0, **settings),
        sampler=get_sampler(sampler) if isinstance(sampler, str) else sampler,
        canvas=Canvas(torch.full((DRAWS, num_tokens), schedule.num_codes)),
    )
    *_, last = frames
    return last.tokens


def assert_distributed(tokens: Tensor, joint: Tensor) -> None:
    """Chi-square of the tokens' joint frequencies; cells too rare to test are put together."""
    weights = torch.tensor([joint.shape[0] ** power for power in reversed(range(joint.ndim))])
    observed = (tokens @ weights).bincount(minlength=joint.numel()).double()
    expected = joint.flatten().double() / joint.sum() * len(tokens)
    common = expected > 5
    assert observed[expected < 1e-6].sum() == 0
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    if expected[-1] < 5:
        observed[0], expected[0] = observed[0] + observed[-1], expected[0] + expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-4


def golden_schedule(config: dict[str, Any]) -> Schedule:
    return Schedule.linear(
        config["num_steps"],
        config["num_codes"],
        alpha_bar=(config["alpha_bar_first"], config["alpha_bar_last"]),
        gamma_bar=(config["gamma_bar_first"], config["gamma_bar_last"]),
    )


def published(config: dict[str, Any]) -> Sampler:
    """Return our counterpart of the sampler of a golden case."""
    if config["sampler"] == "plain":
        return Strided(every=True)
    if config["sampler"] == "fast":
        return ReferenceFast(skip=config["skip"])
    reveals = tuple(config["reveal_counts"].get(str(t), 0) for t in range(config["num_steps"]))
    by = by_random if config["rule"] == 1 else by_purity
    return ReferenceReveal(by, sharpened=config["rule"] == 2, reveals=reveals)


def table_denoiser(base: Tensor, w: Tensor, scale: Tensor) -> Denoise:
    """logits[b, l, k] = scale[t] · (base[l, k] + Σ_m W[l, m, x[b, m], k])"""

    def denoise(tokens: Tensor, t: Tensor) -> Tensor:
        terms = (w[:, m, column].transpose(0, 1) for m, column in enumerate(tokens.T))
        return scale[t - 1, None, None] * sum(terms, base)

    return denoise


TABLES = [case for case in cases("sampler") if "denoiser" in case["config"]]


def nothing(tokens: Tensor) -> Tensor:
    """No position is known."""
    return torch.zeros_like(tokens, dtype=torch.bool)


@pytest.mark.parametrize("case", TABLES, ids=lambda case: case["case"])
def test_golden_distribution(case: dict[str, Any]) -> None:
    config, golden = case["config"], load(case["case"])
    denoise = table_denoiser(golden["in/base"], golden["in/W"], golden["in/scale"])
    tokens = draw(
        denoise,
        golden_schedule(config),
        published(config),
        config["tokens"],
        truncation=config["truncation_rate"] or 1.0,
        prior_scale=config.get("purity_r", 0.0),
    )
    assert_distributed(tokens, golden["exp/exact_joint"])


TOY = next(case for case in cases("sampler") if case["case"] == "toy_AA_BB")


@pytest.mark.parametrize("run", TOY["config"]["runs"])
def test_golden_toy(run: str) -> None:
    """Two tokens, AA or BB: the published samplers leave as many AB and BA as was found by enumeration."""
    config = TOY["config"]["runs"][run]
    table = load("toy_AA_BB")[f"in/log_p_table.T{config['num_steps']}"]  # (T, 9, K, L)
    tokens = draw(
        lambda tokens, t: table[t - 1, tokens[:, 0] * 3 + tokens[:, 1]].transpose(1, 2),
        Schedule.published(config["num_steps"], 2),
        published(config),
        2,
        prior_scale=config["purity_r"] or 0.0,
    )
    expected = config["invalid_exact"]
    invalid = (tokens[:, 0] != tokens[:, 1]).double().mean().item()
    assert abs(invalid - expected) < 4.5 * (expected * (1 - expected) / DRAWS) ** 0.5 + 2 / DRAWS


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("make", [Schedule.published, Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
def test_strided_is_exact_for_independent_tokens(make: Callable[[int, int], Schedule], steps: int, oracle: Any) -> None:
    """With the exact denoiser every position has the data's distribution after any strides, from drawn noise."""
    check_independent_tokens(get_sampler("strided"), make, steps, oracle)
    check_independent_tokens(get_sampler("corrected"), make, steps, oracle)


@pytest.mark.parametrize("make", [Schedule.published, Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
@pytest.mark.parametrize(
    "more",
    [
        {"renoise": 0.3},
        {"renoise": 1.0},
        {"renoise": 1.0, "renoise_cap": 0.1},
        {"renoise": 1.0, "renoise_loop": 0.5},
        {"renoise": 0.3, "renoise_loop": 1.0},
    ],
    ids=str,
)
def test_renoised_is_exact_for_independent_tokens(
    make: Callable[[int, int], Schedule], more: dict[str, float], oracle: Any
) -> None:
    check_independent_tokens(get_sampler("renoised"), make, 6, oracle, **more)


@pytest.mark.parametrize(("renoise", "cap"), [(0.0, 1.0), (0.25, 1.0), (1.0, 1.0), (1.0, 0.04)])
def test_renoised_is_the_remasking_sampler_with_masks_alone(renoise: float, cap: float) -> None:
    """Wang et al. 2025, Eq. 6: a visible token is masked with σ, and a masked one revealed so that q(x_s) is kept."""
    schedule, t, s, n = Schedule.mask_only(10, 3), 6, 4, 40_000
    share = SamplingSettings("renoised", guidance=1.0, renoise=renoise, renoise_cap=cap)
    tokens = torch.tensor([0, 3]).repeat(1, n)
    now = PlanStep(torch.tensor([t]), torch.tensor([s]), torch.tensor([0]), 0, 0)
    u = uniforms(torch.tensor([5]), torch.tensor([1]), 2 * n, 3)
    prediction = Prediction(torch.zeros(1, 2 * n, 3), lambda features: features, None)
    settings = BatchSettings.of([share], torch.tensor([[t]]), 10).first()
    new = get_sampler("renoised").step(StepInput(schedule, tokens, prediction, now, settings, u, nothing(tokens)))[0]
    a_t, a_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
    sigma = min(renoise * min(1.0, (1 - a_s) / a_t), cap, 1 - a_s)
    reveal = (a_s - (1 - sigma) * a_t) / (1 - a_t)
    for kept, expected in ((new[0::2] == 0, 1 - sigma), (new[1::2] != 3, reveal)):
        if expected == 1:
            assert kept.all()
        else:
            assert abs(float(kept.double().mean()) - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert ((new[0::2] == 0) | (new[0::2] == 3)).all()


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
@pytest.mark.parametrize(("renoise", "cap"), [(0.4, 1.0), (1.0, 1.0), (1.0, 0.05)])
def test_a_call_in_a_loop_keeps_the_distribution_of_noised_tokens(
    make: Callable[[int, int], Schedule], renoise: float, cap: float
) -> None:
    """The transition matrix P of such a call, by enumeration: q P = q, and tokens are drawn from its rows."""
    schedule, t, prior = make(10, 3), torch.tensor([3]), torch.tensor([0.6, 0.3, 0.1]).double()
    q = transition(schedule, 0, 3)[:-1]  # q(x_t | x_0), (K, K + 1)
    joint = prior[:, None] * q
    p0 = (joint / joint.sum(0).clamp(min=1e-300)).T  # p(x_0 | x_t), (K + 1, K)
    share = float(renoised_share(schedule, t, t, torch.tensor([renoise]), torch.tensor([cap])))
    kept = float(schedule.alpha_bar[3])
    assert share == pytest.approx(min(1, min(renoise * (1 - kept) / kept, cap) / (1 - kept)))
    P = (1 - share) * torch.eye(4) + share * p0 @ q
    assert torch.allclose(joint.sum(0) @ P, joint.sum(0), atol=1e-12)

    given = SamplingSettings("renoised", guidance=1.0, renoise=renoise, renoise_cap=cap, renoise_loop=0.5)
    settings, now = BatchSettings.of([given], t[:, None], 10).first(), PlanStep(t, t, torch.zeros_like(t), 0, 0)
    for xt in joint.sum(0).nonzero()[:, 0].tolist():
        u = uniforms(torch.tensor([xt]), torch.tensor([1]), DRAWS, 3)
        prediction = Prediction(p0[xt].log().expand(1, DRAWS, 3), lambda features: features, None)
        tokens = torch.full((1, DRAWS), xt)
        new = get_sampler("renoised").step(StepInput(schedule, tokens, prediction, now, settings, u, nothing(tokens)))
        assert_distributed(new.view(-1, 1), P[xt])


@pytest.mark.parametrize("sampler", ["purity", "token-fixing"])
def test_positions_are_revealed_with_weights_purity_to_a_power(sampler: str) -> None:
    """One step that reveals one position of three: which, for images with different powers in one batch."""
    powers, purities = [0.0, 1.0, 3.0, 6.0], torch.tensor([0.9, 0.6, 0.5]).double()
    log_p0 = torch.stack([purities, 1 - purities], 1).log()
    rows = [SamplingSettings(sampler, guidance=1.0, purity_power=power) for power in powers]
    count = DRAWS // 4
    B, t = len(rows) * count, torch.full((len(rows), 1), 5)
    settings = BatchSettings.of(rows, t, 10).select(torch.arange(len(rows)).repeat_interleave(count)).first()
    reveal = torch.ones(B, dtype=torch.int64)
    x = StepInput(
        Schedule.paper(10, 2),
        torch.full((B, 3), 2),
        Prediction(log_p0.float().expand(B, 3, 2), lambda features: features, None),
        PlanStep(torch.full((B,), 5), torch.full((B,), 3), reveal, 1, 3),
        settings,
        uniforms(torch.arange(B), torch.ones(B, dtype=torch.int64), 3, 2),
        nothing(torch.zeros(B, 3)),
    )
    new = get_sampler(sampler).step(x)
    assert ((new != 2).sum(1) == 1).all()
    first = (new != 2).long().argmax(1).view(len(rows), count)
    for own, power in zip(first, powers, strict=True):
        weights = purities**power
        assert_distributed(own[:, None], weights / weights.sum())


def test_a_large_purity_power_fills_every_position() -> None:
    """Weights of improbable positions, 1e-3 to the power 20 = 0 in float32, are still above those of filled ones."""
    schedule, num_codes = Schedule.paper(10, 1000), 1000

    def denoise(tokens: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, num_codes)

    given = SamplingSettings("purity", guidance=1.0, steps=5, purity_power=20.0)
    *_, last = sample(denoise, schedule, num_tokens=12, seeds=[0, 1], settings=given)
    assert (last.tokens < num_codes).all()


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
def test_a_correcting_call_keeps_the_distribution_of_dependent_tokens(make: Callable[[int, int], Schedule]) -> None:
    """Two tokens that depend on each other, noised to t = 4; one of them is drawn anew, by the exact network."""
    K, t = 3, 4
    schedule, table = make(10, K), torch.tensor([[0.40, 0.02, 0.03], [0.05, 0.25, 0.0], [0.0, 0.05, 0.20]]).double()
    q = transition(schedule, 0, t)[:K].double().clamp(min=0)  # q(x_t | x_0), (K, K + 1); rounding may leave -1e-17
    noised = q.T @ table @ q  # of both tokens, (K + 1, K + 1)
    given = torch.stack([torch.einsum("ab,ax,by->xya", table, q, q), torch.einsum("ab,ax,by->xyb", table, q, q)], 2)
    p0 = given / given.sum(-1, keepdim=True)  # p(x_0,i | x_t), (K + 1, K + 1, 2, K); NaN where x_t is impossible
    draws = noised.flatten().multinomial(DRAWS, replacement=True, generator=torch.Generator().manual_seed(8))
    tokens = torch.stack([draws // (K + 1), draws % (K + 1)], 1)
    assert_distributed(tokens, noised)

    sampler, times = get_sampler("corrected"), torch.full((DRAWS, 1), t)
    own = SamplingSettings("corrected", guidance=1.0, corrector_share=0.5)
    settings = BatchSettings.of([own] * DRAWS, times, 10).first()
    now = PlanStep(times[:, 0], times[:, 0], torch.zeros(DRAWS, dtype=torch.int64), 0, 0)
    u = uniforms(torch.arange(DRAWS), torch.ones(DRAWS, dtype=torch.int64), 2, 3)
    seen = sampler.before(schedule, tokens, now, settings, u, nothing(tokens))
    prediction = Prediction(p0[seen[:, 0], seen[:, 1]].log(), lambda features: features, None)
    new = sampler.step(StepInput(schedule, seen, prediction, now, settings, u, nothing(seen)))
    changed = (new != tokens).double().mean(0)
    assert (changed > 0.05).all()
    assert not ((new != tokens).all(1)).any()
    assert_distributed(new, noised)


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only])
@pytest.mark.parametrize(("sampler", "share"), [("corrected", "corrector_share"), ("token-fixing", "fix_share")])
def test_the_share_of_an_edit_is_that_of_its_own_positions(
    make: Callable[[int, int], Schedule], sampler: str, share: str
) -> None:
    """Two thirds of 60 visible tokens are known; half of the other 20 are drawn anew, and become what they were not."""
    tokens, known = torch.zeros(5, 60, dtype=torch.int64), torch.arange(60).expand(5, 60) % 3 > 0
    likely = torch.tensor([0.001, 0.998, 0.001]).log().expand(5, 60, 3)
    given = SamplingSettings(sampler, guidance=1.0, prior_scale=0.0, **{share: 0.5})
    times = torch.full((5, 1), 1)
    settings = BatchSettings.of([given] * 5, times, 10).first()
    now = PlanStep(times[:, 0], times[:, 0], torch.zeros(5, dtype=torch.int64), 0, 0)
    u = uniforms(torch.arange(5), torch.ones(5, dtype=torch.int64), 60, get_sampler(sampler).num_uniforms)
    schedule = make(10, 3)
    seen = get_sampler(sampler).before(schedule, tokens, now, settings, u, known)
    prediction = Prediction(likely, lambda features: features, None)
    new = get_sampler(sampler).step(StepInput(schedule, seen, prediction, now, settings, u, known))
    assert (new[known] == 0).all()
    changed = (new != 0).sum(1)
    assert ((changed >= 9) & (changed <= 10)).all()


def test_token_fixing_draws_the_least_likely_tokens_anew() -> None:
    """One step in which nothing is masked: 3 of 12 tokens are, and become what the network says; the others stay."""
    own = torch.linspace(-3, -0.1, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(3))]
    other = torch.log(-torch.expm1(own))
    logits = torch.stack([own, torch.full((12,), -60.0), other], 1)[None]  # the token is 0; the alternative is 2

    def step(fix_share: float) -> Tensor:
        settings = SamplingSettings(
            "token-fixing", guidance=1.0, prior_scale=0.0, temperature=0.01, fix_share=fix_share
        )
        now = PlanStep(torch.tensor([5]), torch.tensor([0]), torch.tensor([0]), 0, 0)
        own_settings = BatchSettings.of([settings], torch.tensor([[5]]), 10).first()
        u = uniforms(torch.tensor([5]), torch.tensor([1]), 12, 2)
        prediction = Prediction(logits, lambda features: features, None)
        tokens = torch.zeros(1, 12, dtype=torch.int64)
        return get_sampler("token-fixing").step(
            StepInput(Schedule.paper(10, 3), tokens, prediction, now, own_settings, u, nothing(tokens))
        )[0]

    assert set(step(0.25).nonzero()[:, 0].tolist()) == set(own.argsort()[:3].tolist())
    assert step(0.25).unique().tolist() == [0, 2]
    assert (step(0.0) == 0).all()
    assert set(step(1.0).nonzero()[:, 0].tolist()) == set((own < other).nonzero()[:, 0].tolist())


def check_independent_tokens(
    sampler: Sampler, make: Callable[[int, int], Schedule], steps: int, oracle: Any, **more: float
) -> None:
    schedule, num_tokens = make(10, 3), 10
    prior = torch.tensor([0.6, 0.3, 0.1]).double()
    one = oracle(schedule, torch.arange(3)[:, None], prior)
    frames = sample(
        lambda tokens, t: one(tokens.view(-1, 1), t.repeat_interleave(num_tokens)).view(*tokens.shape, 3),
        schedule,
        num_tokens=num_tokens,
        seeds=range(DRAWS // num_tokens),
        settings=SamplingSettings(steps=steps, guidance=1.0, **more),
        sampler=sampler,
    )
    *_, last = frames
    assert last.steps == steps
    assert_distributed(last.tokens.view(-1, 1), prior)


@pytest.mark.parametrize("make", [Schedule.published, Schedule.mask_only, Schedule.uniform_only])
def test_posterior_guided_draws_from_the_guided_posterior(make: Callable[[int, int], Schedule]) -> None:
    """One step from t = 9 to s = 4 at scale 3, counted against the built posterior of Eq. 7."""
    schedule, codes = make(9, 3), torch.tensor([[1.0, 0.5, -1.0], [0.2, 0.9, 0.4]])
    start = 0 if schedule.gamma_bar_ends[1] == 0 else 3
    tokens = torch.full((DRAWS, 1), start)
    features, scale = codes[:, None, None].expand(2, DRAWS, 1, 3).flatten(0, 1), torch.full((DRAWS,), 3.0)
    step = StepInput(
        schedule,
        tokens,
        Prediction(features, lambda x: x, scale, guided=tuple(range(DRAWS))),
        now=PlanStep(*torch.tensor([9, 4, 0])[:, None].expand(3, DRAWS), most=0, left=0),
        settings=StepSettings(guidance=scale),
        u=torch.rand(2, DRAWS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        known=nothing(tokens),
    )
    drawn = get_sampler("posterior-guided").step(step)
    times = torch.tensor([9]), torch.tensor([4])
    by_cond, by_null = (
        posterior_log_probs(schedule, logits.log_softmax(-1)[None, None].double(), tokens[:1], *times)
        for logits in codes
    )
    guided = (3 * by_cond - 2 * by_null).nan_to_num(nan=-torch.inf).softmax(-1)[0, 0]
    assert_distributed(drawn, guided)


EXACT = [name for name in samplers() if get_sampler(name).facts.exact == "one token per call"]
REVEALING = [name for name in EXACT if isinstance(get_sampler(name), Reveal)]


@pytest.mark.parametrize("sampler", REVEALING)
def test_joint_distribution_problem(sampler: str, oracle: Any) -> None:
    """Data AA and BB, perfect denoiser: half of the pairs drawn at once are AB or BA, and none drawn one by one."""
    schedule = Schedule.published(100, 2)
    denoise = oracle(schedule, torch.tensor([[0, 0], [1, 1]]), torch.tensor([0.5, 0.5]).double())
    at_once = draw(denoise, schedule, sampler, 2, steps=1)
    assert_distributed(at_once, torch.full((2, 2), 0.25))
    one_by_one = draw(denoise, schedule, sampler, 2, steps=2)
    assert_distributed(one_by_one, torch.tensor([[0.5, 0], [0, 0.5]]))


@pytest.mark.parametrize("sampler", sorted({*EXACT} - {*REVEALING, "posterior-guided"}))  # it is slow, image by image
def test_posterior_samplers_are_exact_if_a_call_changes_one_token(sampler: str, oracle: Any) -> None:
    """Two tokens that the same of two calls unmasks disagree in half of the cases, and others never."""
    schedule = Schedule.mask_only(2, 2)
    denoise = oracle(schedule, torch.tensor([[0, 0], [1, 1]]), torch.tensor([0.5, 0.5]).double())
    tokens = draw(denoise, schedule, sampler, 2, steps=2, corrector_share=0.0, renoise=0.0)
    later = float(schedule.gamma_bar[1])  # the probability to leave MASK in the second call
    apart = later * (1 - later)
    shares = torch.tensor([[1 + 2 * apart, 1 - 2 * apart], [1 - 2 * apart, 1 + 2 * apart]]) / 4
    assert_distributed(tokens, shares)


@pytest.mark.parametrize("sampler", samplers())
def test_network_calls_are_as_many_as_the_facts_say(sampler: str) -> None:
    facts, most = get_sampler(sampler).facts, 20

    def calls(steps: int) -> int:
        masked = torch.tensor([64])
        given = PlanInput(Schedule.mask_only(most, 4), 64, torch.tensor([steps]), torch.tensor([most]), masked)
        return get_sampler(sampler).plan(given).num_steps

    expected = {
        "steps": (1, 8, 20, 50),
        "at most steps": (1, 8, 20, 50),  # before the first step
        "T": (20, 20, 20, 20),
        "steps, at most T": (1, 8, 20, 20),
        "steps, at most T beside a loop": (1, 8, 20, 20),
        "steps, at most 2T - 1": (1, 8, 20, 39),
    }
    found = tuple(map(calls, (1, 8, 20, 50)))
    if facts.calls in expected:
        assert found == expected[facts.calls]
    elif facts.calls == "at most steps, and at least 2":
        assert all(2 <= one <= max(2, steps) for one, steps in zip(found, (1, 8, 20, 50), strict=True))
    else:
        assert facts.calls.startswith("fixed")
        assert len(set(found)) == 1


def test_own_samplers_are_known_without_being_imported() -> None:
    """Each by the name of its module; the help of the option names them all."""
    assert set(SAMPLERS.own()) <= samplers().keys()
    assert {type(get_sampler(name)).__module__.partition(".")[0] for name in SAMPLERS.own()} == {"vqdiff"}
    listed = options_of(SamplingSettings)["sampler"].help
    assert all(name in listed for name in SAMPLERS.own())
    assert {name for name in samplers() if name not in SAMPLERS.own()} <= set(ORDERS.names())


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
def test_corrections_make_tokens_agree(make: Callable[[int, int], Schedule], oracle: Any) -> None:
    """Data AA and BB: the last stride draws what is left, and corrections before it leave less that disagrees.

    One position a call, so q(x_t) is kept; strides alone do not have it, and repeated corrections approach it.
    """
    schedule = make(100, 2)
    denoise = oracle(schedule, torch.tensor([[0] * 8, [1] * 8]), torch.tensor([0.5, 0.5]).double())

    def disagreeing(sampler: str, steps: int) -> float:
        tokens = draw(denoise, schedule, sampler, 8, steps=steps, corrector_share=0.1)
        assert abs((tokens[:, 0] == 0).double().mean() - 0.5) < 0.02
        return float((tokens != tokens[:, :1]).any(1).double().mean())

    strides = disagreeing("strided", 4)
    assert disagreeing("corrected", 7) < strides - 0.01  # the same four strides, and three corrections


@pytest.mark.parametrize("make", [Schedule.paper, Schedule.mask_only, Schedule.uniform_only])
def test_a_loop_makes_tokens_agree(make: Callable[[int, int], Schedule], oracle: Any) -> None:
    """Data AA and BB, eight tokens: calls in a loop, after the same strides, leave less that disagrees."""
    denoise = oracle(make(100, 2), torch.tensor([[0] * 8, [1] * 8]), torch.tensor([0.5, 0.5]).double())

    def disagreeing(renoise: float) -> float:
        tokens = draw(denoise, make(100, 2), "renoised", 8, steps=8, renoise_loop=0.5, renoise=renoise)
        assert abs((tokens[:, 0] == 0).double().mean() - 0.5) < 0.02
        return float((tokens != tokens[:, :1]).any(1).double().mean())

    assert disagreeing(0.9) < disagreeing(0.0) - 0.01


def test_the_example_runs(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    command = [sys.executable, str(EXAMPLE), "--images", "200", "--output", str(plot)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert plot.stat().st_size > 0
    assert "tokens per step" in done.stdout


def test_prior_scale_sharpens() -> None:
    """Eq. 11 with p = (0.8, 0.2), purity 0.8 and r = 2.5 draws from p³ / Σ p³."""
    check_prior_scale(get_sampler("purity"))


def check_prior_scale(sampler: Sampler) -> None:
    schedule = Schedule.published(10, 2)
    logits = torch.tensor([0.8, 0.2]).log()
    tokens = draw(lambda tokens, t: logits.expand(len(tokens), 1, 2), schedule, sampler, 1, prior_scale=2.5)
    assert_distributed(tokens, torch.tensor([0.8, 0.2]).double() ** 3)


@pytest.mark.parametrize("sampler", ["purity", "fewer-tokens", "halton", "strided", "ancestral", "reference-fast"])
def test_temperature_is_that_of_the_tokens(sampler: str) -> None:
    """p = (0.8, 0.2) at a temperature of 1/2 draws from p² / Σ p², whichever position comes first and when."""
    schedule, logits = Schedule.mask_only(10, 2), torch.tensor([0.8, 0.2]).log()
    tokens = draw(
        lambda tokens, t: logits.expand(len(tokens), 1, 2), schedule, sampler, 1, temperature=0.5, prior_scale=0.0
    )
    assert_distributed(tokens, torch.tensor([0.8, 0.2]).double() ** 2)


def test_the_registry_describes_and_suggests() -> None:
    for name, description in samplers().items():
        assert isinstance(get_sampler(name), Sampler)
        assert description
        assert "\n" not in description
    with pytest.raises(InputError, match="did you mean 'purity'"):
        get_sampler("purty")
    with pytest.raises(InputError, match=r"choose one of .*purity"):
        get_sampler("???")


@pytest.mark.parametrize("sampler", [name for name in samplers() if not isinstance(get_sampler(name), Strided)])
def test_beginning_with_masks_needs_a_schedule_with_masks(sampler: str) -> None:
    schedule, settings = Schedule.uniform_only(10, 3), SamplingSettings(sampler, steps=1)
    with pytest.raises(InputError, match="no masks"):
        sample(lambda tokens, t: torch.zeros(len(tokens), 4, 3), schedule, num_tokens=4, seeds=[0], settings=settings)


def test_strided_leaves_the_right_share_masked() -> None:
    """After a stride from T to s every position is MASK with gamma_bar[s], whatever the network says (Lemma 1)."""
    check_share_masked(get_sampler("strided"))


def check_share_masked(sampler: Sampler) -> None:
    schedule, tokens = Schedule.mask_only(10, 3), 10
    frames = sample(
        lambda tokens, t: torch.randn(*tokens.shape, 3),
        schedule,
        num_tokens=tokens,
        seeds=range(DRAWS // tokens),
        settings=SamplingSettings(steps=2, guidance=1.0),
        sampler=sampler,
    )
    share = (next(iter(frames)).tokens == schedule.num_codes).double().mean().item()
    expected = float(schedule.gamma_bar[5])
    assert abs(share - expected) < 4.5 * (expected * (1 - expected) / DRAWS) ** 0.5


def test_purity_goes_first_in_proportion() -> None:
    """Of two positions with purities 0.9 and 0.3 the first is filled first in 3 of 4 runs (Algorithm 2)."""
    check_purity_order(get_sampler("purity"))


def check_purity_order(sampler: Sampler) -> None:
    probabilities = torch.tensor([[0.9, 0.05, 0.03, 0.02], [0.3, 0.25, 0.25, 0.2]])
    frames = sample(
        lambda tokens, t: probabilities.log().expand(len(tokens), 2, 4),
        Schedule.published(10, 4),
        num_tokens=2,
        seeds=range(DRAWS),
        settings=SamplingSettings(steps=2, guidance=1.0),
        sampler=sampler,
    )
    first = next(iter(frames)).revealed[:, 0].double().mean().item()
    assert abs(first - 0.75) < 4.5 * (0.75 * 0.25 / DRAWS) ** 0.5


class SingleStep(Strided):
    """Draws from the posterior of one step instead of a stride."""

    def step(self, x: StepInput) -> Tensor:
        return draw_posterior(x.schedule, x.prediction.at(), x.tokens, x.now.s + 1, x.now.s, x.u)


class StopsEarly(Strided):
    """Strides that stop a step early."""

    def step(self, x: StepInput) -> Tensor:
        t, s = x.now.t, (x.now.s + 1).clamp(max=x.now.t - 1)
        return draw_posterior(x.schedule, x.prediction.at(), x.tokens, t, s, x.u)


class LessSharpened(Reveal):
    """Has an exponent of r·purity instead of 1 + r·purity, where the purity is 0.8."""

    def step(self, x: StepInput) -> Tensor:
        settings = x.settings._replace(prior_scale=x.settings.prior_scale - 1 / 0.8)
        return super().step(x._replace(settings=settings))


def by_impurity(purity: Tensor, u: Tensor) -> Tensor:
    """A race that the least sure positions win."""
    return u.log() * purity


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("strided", SingleStep(), lambda sampler, oracle: check_share_masked(sampler)),
        (
            "strided",
            StopsEarly(),
            lambda sampler, oracle: check_independent_tokens(sampler, Schedule.uniform_only, 7, oracle),
        ),
        ("purity", LessSharpened(by_purity, sharpened=True), lambda sampler, oracle: check_prior_scale(sampler)),
        ("purity", Reveal(by_impurity, sharpened=True), lambda sampler, oracle: check_purity_order(sampler)),
    ],
    ids=["posterior of one step", "stops a step early", "exponent without 1", "least sure first"],
)
def test_a_subtly_wrong_sampler_is_noticed(
    right: str, wrong: Sampler, check: Callable[[Sampler, Any], None], oracle: Any
) -> None:
    check(get_sampler(right), oracle)
    with pytest.raises(AssertionError):
        check(wrong, oracle)
