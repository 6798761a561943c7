"""Several processes (gloo) compute what one does, by DDP and by FSDP2, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vqdiff
from processes import exit_codes, started
from vqdiff.foundation.config import read_config
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import save_component
from vqdiff.training.denoiser_settings import DiffusionTraining
from vqdiff.training.diffusion import train_diffusion

SAMPLE = Path(__file__).parents[1] / "fixtures" / "emoji-sample"
MODEL = Path(vqdiff.__file__).parent / "models" / "emoji"

RESULTS = ("run.json", "last.pt", "log.jsonl", "model", "preview*", "events*")

CONFIG = f"""
data = "OUT/data"
output = "OUT/one"
image_tokenizer = "OUT/image_tokenizer"
text_encoder = "{MODEL}/text_encoder"
prompts = ["a red apple"]
evaluate = 2
compile = false
[model]
width = 32
depth = 2
heads = 2
token_width = 16
[loss]
importance = true
[sampling]
steps = 2
[run]
steps = 6
batch_size = 12
learning_rate = 3e-3
warmup = 2
ema = 0.9
precision = "fp32"
log_every = 1
preview_every = 6
checkpoint_every = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    shutil.copytree(SAMPLE, folder / "data")
    torch.manual_seed(0)
    sizes = CompactConfig(128, (8, 16, 16), (0, 0, 0), (0, 0, 0), num_codes=64, code_dim=4)
    save_component(CompactTokenizer(sizes), folder / "image_tokenizer")
    (folder / "config.toml").write_text(CONFIG.replace("OUT", str(folder)))
    run(folder, "one")
    return folder


def run(folder: Path, name: str, *changes: str, processes: int = 1, resume: bool = False) -> None:
    """Train in a process of its own, or several."""
    if (folder / "one").is_dir():  # its tokens and text features serve all
        shutil.copytree(folder / "one", folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*RESULTS))
    config = read_config(DiffusionTraining, folder / "config.toml", [f"output={folder / name}", *changes])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [started(_train, config, resume, rank, processes, port) for rank in range(processes)]
    assert exit_codes(children) == [0] * processes


def _train(config: DiffusionTraining, resume: bool, rank: int, processes: int, port: int) -> None:
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train_diffusion(config, resume=resume)


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def assert_same(one: Path, other: Path) -> None:
    """The same losses but for the order of sums, and the same average; AdamW divides small gradients by their size."""
    assert losses(other) == pytest.approx(losses(one), rel=1e-4)
    ours, theirs = (load_file(path / "model" / "denoiser" / "model.safetensors") for path in (one, other))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("shard", "processes"),
    [
        pytest.param(False, 3, id="ddp-3"),
        pytest.param(True, 2, id="fsdp-2"),
        pytest.param(False, 2, id="ddp-2", marks=pytest.mark.slow),
        pytest.param(True, 3, id="fsdp-3", marks=pytest.mark.slow),
    ],
)
def test_processes_compute_what_one_does(folder: Path, shard: bool, processes: int) -> None:
    name = f"{processes}-{shard}"
    run(folder, name, f"run.shard={json.dumps(shard)}", "run.accumulation=2", processes=processes)
    assert_same(folder / "one", folder / name)


def test_a_run_goes_on_with_another_number_of_processes(folder: Path) -> None:
    run(folder, "first", "run.steps=3", "run.decay=0.0", "run.shard=true", processes=2)
    run(folder, "first", "run.decay=0.0", processes=1, resume=True)
    run(folder, "whole", "run.decay=0.0")
    assert_same(folder / "whole", folder / "first")
