"""The baseline that our loss is measured against computes the published loss."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from golden_cases import Case, cases, load
from vqdiff.bench.log_one_hot import LogOneHot
from vqdiff.diffusion import Schedule, diffusion_loss, q_sample

CPU = torch.device("cpu")
LOSSES = [case for case in cases("loss") if case["case"] != "importance_weights"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["case"])
def test_golden_loss(case: Case) -> None:
    golden, config, tolerance = load(case), case["config"], case["tolerance"]
    alpha_bar, gamma_bar = ((config[f"{name}_first"], config[f"{name}_last"]) for name in ("alpha_bar", "gamma_bar"))
    published = LogOneHot(Schedule.linear(config["num_steps"], config["num_codes"], alpha_bar, gamma_bar), CPU)
    log_x0, log_xt = (published.to_log_one_hot(golden[name]) for name in ("in/x0", "in/x_t"))
    logits = golden["in/logits"].clone().requires_grad_()
    losses = published.loss(
        logits,
        log_x0,
        log_xt,
        golden["in/t"],
        aux_weight=float(config["auxiliary_weight"]),
        adaptive=config["adaptive_auxiliary"],
        mask_weight=(float(config["mask_weight_masked"]), float(config["mask_weight_visible"])),
    )
    per_sample = losses / golden["in/p_t"]
    assert torch.allclose(per_sample, golden["exp/loss_per_sample"], rtol=tolerance["loss_rtol"])
    (gradient,) = torch.autograd.grad(per_sample.sum() / golden["in/x0"].numel(), logits)
    grad = tolerance["grad"]
    assert torch.allclose(gradient, golden["exp/grad_logits"], rtol=grad["rtol"], atol=grad["atol"])


@pytest.mark.parametrize("schedule", [Schedule.published(10, 50), Schedule.paper(10, 50)])
def test_the_same_loss_and_gradient_as_ours(schedule: Schedule) -> None:
    t = torch.arange(1, 11)
    x0, logits = torch.randint(50, (10, 20)), torch.randn(10, 20, 50, requires_grad=True)
    xt = q_sample(schedule, x0, t)
    ours = diffusion_loss(schedule, logits, x0, xt, t, aux_weight=0.1, adaptive=True).total
    published = LogOneHot(schedule, CPU)
    tokens = (published.to_log_one_hot(x) for x in (x0, xt))
    theirs = published.loss(logits.mT, *tokens, t - 1, aux_weight=0.1)
    assert torch.allclose(ours, theirs, rtol=1e-4)
    gradients = (torch.autograd.grad(losses.sum(), logits)[0] for losses in (ours, theirs))
    assert torch.allclose(*gradients, atol=1e-4)


@pytest.mark.parametrize("t", [2, 6, 10])
def test_noise_has_the_marginals_of_the_schedule(t: int) -> None:
    schedule, count = Schedule.paper(10, 4), 20_000
    published = LogOneHot(schedule, CPU)
    log_x0 = published.to_log_one_hot(torch.full((1, count), 2))
    xt = published.q_sample(log_x0, torch.tensor([t - 1])).argmax(1)
    alpha, beta, gamma = (float(x) for x in schedule.marginal(torch.tensor(t)))
    expected = torch.tensor([beta, beta, alpha + beta, beta, gamma], dtype=torch.float64) * count
    assert chisquare(xt.flatten().bincount(minlength=5), expected).pvalue > 1e-4
