"""Two processes with half the batch each learn what one learns from all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from processes import exit_codes, started
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.image_tokenizers.losses import AdversarialConfig, PerceptualConfig, ReconstructionLoss, TokenizerObjective

STEPS = 12
PICTURES = 8


def learn(rank: int, processes: int, folder: Path) -> None:
    """Train for a few steps on this process' share, and write the losses and the weights it ends with."""
    torch.manual_seed(0)
    tokenizer = CompactTokenizer(CompactConfig(16, (8, 16), (0, 1), (1, 1), num_codes=24, code_dim=4))
    quantizer = tokenizer.quantizer
    quantizer.free_steps, quantizer.threshold_ema_dead_code = 2, 2.0  # many codes die
    one: Any = TokenizerObjective(
        tokenizer, ReconstructionLoss(), PerceptualConfig(), AdversarialConfig(0.5, 5, 2, 8, 2)
    )
    if processes > 1:
        store = f"file://{folder / 'store'}"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
        one = DistributedDataParallel(one, broadcast_buffers=False)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.05)  # Adam would magnify rounding where a gradient is zero
    size, losses = PICTURES // processes, list[float]()
    for step in range(STEPS):
        pixels = torch.rand(PICTURES, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        loss, _ = one(pixels[rank * size : (rank + 1) * size], torch.tensor(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    state = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    torch.save({"losses": torch.tensor(losses), **state}, folder / f"{processes}-{rank}.pt")
    if processes > 1:
        distributed.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    learn(0, 1, tmp_path)
    assert exit_codes([started(learn, rank, 2, tmp_path) for rank in range(2)]) == [0, 0]
    whole, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name, value in first.items():
        if name != "losses":
            assert torch.equal(value, second[name]), name
            torch.testing.assert_close(value, whole[name], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, whole["losses"], atol=1e-4, rtol=1e-3)
