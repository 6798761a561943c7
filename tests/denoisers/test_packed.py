"""Packed denoisers predict what they did before, as precisely as their numbers allow."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from small_denoisers import CONDITIONS, NETWORKS, TOKENS, trained
from vqdiff.denoisers.layers import quantized
from vqdiff.denoisers.packed import attention, is_packed, pack, precision_of
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import can_pack, processor
from vqdiff.model import save_component

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="needs an x86 CPU")
needs_bf16 = pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="needs an x86 CPU with AVX-512")
needs_int8 = pytest.mark.skipif(processor().int8 is None, reason="needs a CPU with VNNI")
pytestmark = [needs_packing, pytest.mark.numeric]

networks = pytest.mark.parametrize("kind", NETWORKS)
THREE = TOKENS[:3]


def condition(kind: str) -> Tensor | None:
    given = CONDITIONS[kind]
    return None if given is None else given[:3]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def centred(logits: Tensor) -> Tensor:
    return logits.float() - logits.float().mean(-1, keepdim=True)


def error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, relative to the spread over the codes."""
    return float((centred(found) - centred(wanted)).square().mean().sqrt() / centred(wanted).std())


@networks
@pytest.mark.parametrize("t", [[5, 5, 5], [1, 8, 4]], ids=["together", "apart"])
def test_float32_is_the_same(kind: str, t: list[int]) -> None:
    network, times = trained(NETWORKS[kind]()), torch.tensor(t)
    wanted = network(THREE, times, condition(kind))
    packed = pack(network)
    torch.testing.assert_close(packed(THREE, times, condition(kind)), wanted, atol=3e-5, rtol=1e-4)
    assert is_packed(packed)
    assert precision_of(packed) == "float32"


@networks
@needs_bf16
def test_bfloat16_is_no_rougher_than_before(kind: str) -> None:
    network, times = trained(NETWORKS[kind]()), torch.tensor([1, 8, 4])
    exact = network(THREE, times, condition(kind))
    rough = copy.deepcopy(network).bfloat16()
    before = error(rough(THREE, times, condition(kind)), exact)
    packed = pack(rough)
    assert error(packed(THREE, times, condition(kind)), exact) < 1.2 * before < 0.1
    assert precision_of(packed) == "bfloat16"


@networks
@needs_int8
def test_int8_is_close_but_not_the_same(kind: str) -> None:
    network, times = trained(NETWORKS[kind]()), torch.tensor([1, 8, 4])
    exact = network(THREE, times, condition(kind))
    packed = pack(network, int8=True)
    assert 1e-4 < error(packed(THREE, times, condition(kind)), exact) < 0.1
    assert precision_of(packed) == "int8"


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
    network = pack(trained(NETWORKS["text"]()))
    for change in ("meta", torch.float64):
        with pytest.raises(InputError, match="cannot move"):
            network.to(change)
    with pytest.raises(InputError, match="packed"):
        save_component(network, tmp_path)
    assert not any(tmp_path.iterdir())


def test_int8_needs_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    processor.cache_clear()
    try:
        with pytest.raises(InputError, match="VNNI"):
            pack(trained(NETWORKS["text"]()), int8=True)
    finally:
        monkeypatch.undo()
        processor.cache_clear()


def test_off_the_cpu_nothing_is_packed() -> None:
    network = trained(NETWORKS["text"]()).to("meta")
    assert not is_packed(pack(network))
    with pytest.raises(InputError, match="int8 is for x86 CPUs"):
        pack(network, int8=True)


@networks
@pytest.mark.parametrize(
    "precision", ["float32", pytest.param("bfloat16", marks=needs_bf16), pytest.param("int8", marks=needs_int8)]
)
def test_copies_give_the_same(kind: str, precision: str) -> None:
    network = trained(NETWORKS[kind]())
    if precision == "bfloat16":
        network = network.bfloat16()
    network = pack(network, int8=precision == "int8")
    times = torch.tensor([1, 8, 4])
    wanted = network(THREE, times, condition(kind))
    for twin in (copy.copy(network), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(THREE, times, condition(kind)), wanted)
