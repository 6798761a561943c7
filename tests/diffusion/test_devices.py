"""Off the CPU: nothing that sampling calls waits for the device, and the results are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vqdiff.diffusion import (
    LossHistory,
    Schedule,
    diffusion_loss,
    draw_categorical,
    draw_forward,
    draw_posterior,
    guide,
    guide_posterior,
    posterior_log_probs,
    purity,
    sharpen,
    truncate,
)

B, L, K = 4, 50, 300
SCHEDULE = Schedule.paper(10, K)


def inputs(device: str) -> list[Tensor]:
    """Two predictions, clean and noised tokens, t and s, a number for each image, and uniforms."""
    generator = torch.Generator().manual_seed(0)
    cond, null = 3 * torch.randn(2, B, L, K, generator=generator)
    x0, xt = (torch.randint(codes, (B, L), generator=generator) for codes in (K, K + 1))
    t, s, each = torch.tensor([1, 4, 9, 10]), torch.tensor([0, 1, 8, 3]), torch.tensor([0.5, 0.8, 0.95, 1.0])
    u = torch.rand(2, B, L, generator=generator, dtype=torch.float64)
    return [x.to(device) for x in (cond, null, x0, xt, t, s, each, u)]


def everything(
    cond: Tensor, null: Tensor, x0: Tensor, xt: Tensor, t: Tensor, s: Tensor, each: Tensor, u: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Call all that a step of sampling or of training may; name and result of each call."""
    log_p0 = guide(cond, null, 1 + each)
    yield "guide", log_p0
    yield "guide all", guide(cond, null, 3.0)
    yield "guide posterior", guide_posterior(SCHEDULE, cond, null, each, xt, t, s).exp()
    yield "purity", purity(log_p0)
    yield "sharpen", sharpen(log_p0, purity(log_p0), each)
    kept = truncate(log_p0, each)
    yield "truncate", kept.exp()
    yield "truncate all", truncate(log_p0, 0.9).exp()
    yield "posterior", posterior_log_probs(SCHEDULE, kept, xt, t, s).exp()
    yield "draw posterior", draw_posterior(SCHEDULE, kept, xt, t, s, u)
    yield "draw categorical", draw_categorical(kept, u[0])
    yield "draw forward", draw_forward(SCHEDULE, x0, t, u[1])

    logits = cond.clone().requires_grad_()
    loss = diffusion_loss(SCHEDULE, logits, x0, xt, t, aux_weight=1e-3, adaptive=True).total
    yield "loss", loss
    yield "gradient", torch.autograd.grad(loss.sum(), logits)[0]
    history = LossHistory(10, device=t.device)
    history.update(t, loss)
    yield "history", history.probabilities()


def test_nothing_asks_for_a_value() -> None:
    """Tensors on the meta device have none: whatever waits for one fails."""
    for name, result in everything(*inputs("meta")):
        assert result.device.type == "meta", name


@pytest.mark.gpu
def test_a_gpu_never_waits_and_agrees() -> None:
    on_gpu = inputs("cuda")
    SCHEDULE.marginal(on_gpu[4])  # copies its table, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = dict(everything(*on_gpu))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, expected in everything(*inputs("cpu")):
        result = results[name].cpu()
        if result.is_floating_point():
            assert torch.allclose(result, expected, rtol=1e-4, atol=1e-6), name
        else:  # a rounding may tip a draw
            assert (result == expected).float().mean() > 0.99, name
