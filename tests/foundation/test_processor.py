"""What the processor is reported to have: its units, as far as the limits of torch and oneDNN leave them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vqdiff.foundation.processor import can_pack, has_bf16_units, processor
from vqdiff.model.devices import auto_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def looked_at_again() -> Iterator[None]:
    processor.cache_clear()
    yield
    processor.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, units: set[str], limit: str | None = None) -> None:
    """Let torch find these units on an x86 processor."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    for name in ("avx512_bf16", "vnni", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in units, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)


ALL = {"avx512_bf16", "vnni", "amx_tile"}


@pytest.mark.parametrize(
    ("units", "limit", "bfloat16", "int8"),
    [
        (ALL, None, "AMX", "AMX"),
        (ALL, "default", "AMX", "AMX"),
        (ALL, "avx512_core_bf16", "AVX512-BF16", "VNNI"),
        (ALL, "AVX512_CORE_VNNI", None, "VNNI"),
        (ALL, "AVX512_CORE", None, None),
        (ALL, "AVX2", None, None),
        ({"avx512_bf16", "vnni"}, None, "AVX512-BF16", "VNNI"),
        ({"vnni"}, None, None, "VNNI"),
        (set(), None, None, None),
    ],
)
def test_units_and_what_auto_stands_for(
    units: set[str], limit: str | None, bfloat16: str | None, int8: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, units, limit)
    assert (processor().bfloat16, processor().int8) == (bfloat16, int8)
    assert has_bf16_units(CPU) == (bfloat16 is not None)
    assert auto_precision(CPU) == ("float32" if bfloat16 is None else "bfloat16")
    for dtype, unit in (("bfloat16", bfloat16), ("int8", int8)):
        assert (f"{dtype} on {unit}" in str(processor())) == (unit is not None)


def test_other_processors_pack_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, ALL)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert (processor().bfloat16, processor().int8) == (None, None)
    assert not can_pack(CPU, torch.float32)
