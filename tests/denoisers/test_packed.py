"""Packed denoisers say what they said before, as precisely as their numbers allow, and each picture by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.denoisers import packed as packing
from vqdiff.denoisers.layers import quantized
from vqdiff.denoisers.packed import attention, is_packed, pack, precision_of
from vqdiff.errors import InputError
from vqdiff.model import save_component
from vqdiff.processor import Processor, can_pack, processor

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="needs an x86 CPU")
needs_bf16 = pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="needs an x86 CPU with AVX-512")
needs_int8 = pytest.mark.skipif(processor().int8 is None, reason="needs a CPU with VNNI")
pytestmark = needs_packing

SIZES: dict[str, Any] = {"num_codes": 50, "num_steps": 8, "grid_size": 8, "width": 64, "depth": 3, "heads": 4}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "text": lambda: ClassicDenoiser(ClassicConfig(**SIZES, text_width=16)),
    "class": lambda: ClassicDenoiser(ClassicConfig(**SIZES, num_classes=4, conv_mlp=True)),
    "unconditional": lambda: ClassicDenoiser(ClassicConfig(**SIZES)),
    "modern": lambda: ModernDenoiser(ModernConfig(**SIZES, token_width=32, text_width=16)),
}
TOKENS = torch.randint(0, 51, (3, 64), generator=torch.Generator().manual_seed(1))
CONDITIONS: dict[str, Tensor | None] = {
    "text": torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(2)),
    "class": torch.tensor([0, 3, 4]),
    "unconditional": None,
}
CONDITIONS["modern"] = CONDITIONS["text"]
networks = pytest.mark.parametrize("kind", NETWORKS)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def trained(kind: str) -> Any:
    """A network whose every weight has a say."""
    network = NETWORKS[kind]().eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        weight.normal_(float("norm.weight" in name), 0.15)
    return network


def centred(logits: Tensor) -> Tensor:
    return logits.float() - logits.float().mean(-1, keepdim=True)


def error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, relative to the spread over the codes."""
    return float((centred(found) - centred(wanted)).square().mean().sqrt() / centred(wanted).std())


@networks
@pytest.mark.parametrize("t", [[5, 5, 5], [1, 8, 4]], ids=["together", "apart"])
def test_float32_is_the_same(kind: str, t: list[int]) -> None:
    network, times = trained(kind), torch.tensor(t)
    wanted = network(TOKENS, times, CONDITIONS[kind])
    torch.testing.assert_close(pack(network)(TOKENS, times, CONDITIONS[kind]), wanted, atol=3e-5, rtol=1e-4)
    assert is_packed(network)
    assert precision_of(network) == "float32"


@networks
@needs_bf16
def test_bfloat16_is_no_rougher_than_before(kind: str) -> None:
    network, times = trained(kind), torch.tensor([1, 8, 4])
    exact = network(TOKENS, times, CONDITIONS[kind])
    rough = copy.deepcopy(network).bfloat16()
    before = error(rough(TOKENS, times, CONDITIONS[kind]), exact)
    assert error(pack(rough)(TOKENS, times, CONDITIONS[kind]), exact) < 1.2 * before < 0.1
    assert precision_of(rough) == "bfloat16"


@networks
@needs_int8
def test_int8_is_close_but_not_the_same(kind: str) -> None:
    network, times = trained(kind), torch.tensor([1, 8, 4])
    exact = network(TOKENS, times, CONDITIONS[kind])
    rough = error(pack(network, int8=True)(TOKENS, times, CONDITIONS[kind]), exact)
    assert 1e-4 < rough < 0.1
    assert precision_of(network) == "int8"


@networks
@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=needs_int8)])
def test_pictures_do_not_depend_on_each_other(kind: str, int8: bool) -> None:
    """Not even by their scales; matrix products may round differently in larger batches."""
    network, times, condition = pack(trained(kind), int8=int8), torch.tensor([1, 8, 4]), CONDITIONS[kind]
    together = network(TOKENS, times, condition)
    for row in range(3):
        one = slice(row, row + 1)
        alone = network(TOKENS[one], times[one], None if condition is None else condition[one])
        torch.testing.assert_close(together[one], alone, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "x", [[-3.0, 0.0, 5.0], [2.0, 3.0, 4.0], [-1.0, -1.0, -2.0], [0.0, 0.0, 0.0], [1e-20, 0, -1e9]]
)
def test_quantized(x: list[float]) -> None:
    levels, scale, zero = quantized(torch.tensor([x]))
    assert levels.dtype == torch.uint8
    assert 0 <= zero <= 255
    assert ((levels.float() - zero) * scale - torch.tensor([x])).abs().max() <= 0.51 * scale


@pytest.mark.parametrize("length", [16, 1500])
@needs_bf16
def test_attention(length: int) -> None:
    """Few positions: all heads at once; many: one after the other."""
    q, k, v = torch.randn(3, 2, 3, length, 8)
    exact = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v), exact)
    rough = attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert (rough - exact).abs().max() < 0.05


def test_a_packed_denoiser_stays_where_it_is(tmp_path: Path) -> None:
    network = pack(trained("text"))
    for change in ("meta", torch.float64):
        with pytest.raises(InputError, match="cannot move"):
            network.to(change)
    with pytest.raises(InputError, match="packed"):
        save_component(network, tmp_path)
    assert not any(tmp_path.iterdir())


def test_int8_needs_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "processor", lambda: Processor("any", "AVX2", True, None, None))
    with pytest.raises(InputError, match="VNNI"):
        pack(trained("text"), int8=True)


def test_off_the_cpu_nothing_is_packed() -> None:
    network = trained("text").to("meta")
    assert not is_packed(pack(network))
    with pytest.raises(InputError, match="int8 is for x86 CPUs"):
        pack(network, int8=True)
