"""Quantizers: nearest codes, straight-through gradients, data-driven start, dead codes, FSQ's grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

import vqdiff
from vqdiff.data.tokens import fingerprint
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer, FiniteScalarQuantizer, VectorQuantizer, code_use
from vqdiff.image_tokenizers.quantizers import FORMER_NAMES
from vqdiff.model import load_component, save_component
from vqdiff.training.state import RunState

pytestmark = pytest.mark.numeric


def clusters(num: int, each: int, dim: int = 4) -> torch.Tensor:
    """``num`` tight, well separated clusters of ``each`` latents."""
    centres = torch.randn(num, dim, generator=torch.Generator().manual_seed(0)) * 20
    return (centres[:, None] + 0.01 * torch.randn(num, each, dim)).flatten(0, 1)


def test_codes_are_the_nearest() -> None:
    quantizer = VectorQuantizer(16, 3).eval()
    latents = torch.randn(5, 7, 3)
    distances = torch.cdist(latents.flatten(0, 1), quantizer.codebook)
    assert torch.equal(quantizer.encode(latents).flatten(), distances.argmin(1))


def test_gradient_goes_straight_through() -> None:
    quantizer = VectorQuantizer(16, 3, commitment=0.0).eval()
    latents = torch.randn(6, 3, requires_grad=True)
    out = quantizer(latents)
    torch.testing.assert_close(out.latents, quantizer.decode(out.tokens))
    out.latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones(6, 3))


def test_training_finds_every_cluster_and_revives_dead_codes() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(24, 4, free_steps=2).train()
    latents = clusters(8, 64)
    free = quantizer(latents)
    torch.testing.assert_close(free.latents, latents)
    for _ in range(2):
        quantizer(latents)
    quantizer.codebook[4:] = quantizer.embed_avg[4:] = 1e3  # only four codes are left to use
    for _ in range(300):
        quantizer(latents)
    quantizer.eval()
    error = (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()
    assert error < 1e-2  # a single missed cluster would cost about 400 / 8
    assert code_use(quantizer.encode(latents), 24).used > 0.8


def test_blank_code_is_for_blanks_alone() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4, free_steps=0, reserve_blank=True).train()
    latents = clusters(4, 32)
    blank = torch.arange(128) < 32
    for _ in range(400):
        tokens = quantizer(latents, blank).tokens
    assert torch.equal(tokens == 0, blank)
    torch.testing.assert_close(quantizer.codebook[0], latents[:32].mean(0), atol=0.05, rtol=0)


# --- files of earlier versions ----------------------------------------------------------------------------------------

BUNDLED = Path(vqdiff.__file__).parent / "models" / "emoji" / "image_tokenizer"


def trained_tokenizer(seed: int = 0) -> CompactTokenizer:
    """A tokenizer in whose buffers no two numbers are the same by chance."""
    torch.manual_seed(seed)
    tokenizer = CompactTokenizer(CompactConfig(16, (8, 8), (0, 0), (0, 0), num_codes=12, code_dim=4))
    for buffer in (tokenizer.quantizer.cluster_size, tokenizer.quantizer.embed_avg):
        buffer.copy_(torch.rand_like(buffer))
    return tokenizer


def with_former_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for old, new in FORMER_NAMES.items():
        for name in [name for name in state if name.endswith(new)]:
            state[name.removesuffix(new) + old] = state.pop(name)
    return state


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("within", ["nothing", "tokenizer", "list"])
def test_former_buffer_names_load(within: str, assign: bool) -> None:
    made = [trained_tokenizer(seed) for seed in range(2)]
    one, other = ({"nothing": x.quantizer, "tokenizer": x, "list": nn.ModuleList([x])}[within] for x in made)
    state = with_former_names(dict(one.state_dict()))
    given = dict(state)
    assert any(name.endswith("usage") for name in state)
    other.load_state_dict(state, assign=assign)
    assert state.keys() == given.keys()  # the caller's is as it was
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(RuntimeError, match="cluster_size"):
        other.load_state_dict({name: value for name, value in state.items() if not name.endswith("usage")})


def test_component_with_former_buffer_names_loads_and_is_saved_with_new_ones(tmp_path: Path) -> None:
    """In half precision, as models are saved; what is loaded is float32 and can be trained."""
    saved = trained_tokenizer()
    save_component(saved, tmp_path, torch.float16)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"quantizer.codebook", "quantizer.cluster_size", "quantizer.embed_avg", "quantizer.passes"} <= names
    now = load_component(tmp_path)
    save_file(with_former_names(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    before = load_component(tmp_path)
    for name, value in now.state_dict().items():
        assert torch.equal(before.state_dict()[name], value), name
        assert before.state_dict()[name].dtype == value.dtype
    before.train()(torch.rand(2, 3, 16, 16))


def test_bundled_tokenizer_has_former_buffer_names_and_loads() -> None:
    assert {f"quantizer.{name}" for name in FORMER_NAMES} <= load_file(BUNDLED / "model.safetensors").keys()
    tokenizer = load_component(BUNDLED)
    assert tokenizer.quantizer.cluster_size.dtype == torch.float32
    assert fingerprint(tokenizer) == "3fcea815432a"  # as before: tokens made with it are still known to be its own


@pytest.mark.parametrize("averaged", [False, True])
def test_training_with_former_buffer_names_resumes(averaged: bool, tmp_path: Path) -> None:
    def run(seed: int) -> RunState:
        tokenizer = trained_tokenizer(seed)
        return RunState(
            tokenizer,
            tokenizer,
            lambda module: torch.optim.AdamW(module.parameters()),
            Accelerator(cpu=True),
            averaged=averaged,
            shard=False,
        )

    first, file = run(0), tmp_path / "state.pt"
    first.save(file, {})
    state = torch.load(file)
    torch.save(state | {part: with_former_names(state[part]) for part in ("weights", "average")}, file)
    second = run(1)
    second.load(file)
    with first.finished() as expected, second.finished() as resumed:
        for name, value in expected.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
    for name, value in first.objective.state_dict().items():
        assert torch.equal(second.objective.state_dict()[name], value), name


# --- finite scalar quantization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 8, 4, 4), (5, 3), (2,)])
def test_fsq_codes_and_grid_points_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.num_codes)
    points = quantizer.decode(codes)
    assert points.unique(dim=0).shape == (quantizer.num_codes, len(levels))
    assert points.abs().max() == 1
    # atanh of a grid point rounds back to it; the outermost points lie at infinity.
    assert torch.equal(quantizer.encode(torch.atanh(points.clamp(-0.9999, 0.9999))), codes)


def test_fsq_gradient_is_that_of_tanh() -> None:
    latents = torch.randn(6, 2, requires_grad=True)
    FiniteScalarQuantizer((5, 5))(latents).latents.sum().backward()
    torch.testing.assert_close(latents.grad, 1 - latents.detach().tanh().square())


def test_fsq_rejects_useless_levels() -> None:
    with pytest.raises(InputError, match="levels"):
        FiniteScalarQuantizer((8, 1))


def test_code_use() -> None:
    use = code_use(torch.tensor([0, 0, 1, 1]), 4)
    assert use.used == pytest.approx(0.5)
    assert use.perplexity == pytest.approx(2)
