"""The CPU's units for matrix products, and the precision in which networks run on it by default."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

_BELOW = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
_WITH_VNNI = ("AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI")
_WITH_BF16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512")
"""Values of ONEDNN_MAX_CPU_ISA; any other value limits nothing."""


@dataclass(frozen=True)
class Processor:
    """What the kernels of torch and oneDNN can use, given ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA."""

    name: str
    vectors: str
    """The instruction set of torch's own kernels, such as AVX512."""
    packing: bool
    """Whether oneDNN accepts weights packed in advance: on x86 only."""
    bfloat16: str | None
    """The units for products of bfloat16: "AMX" or "AVX512-BF16"; None where these are emulated."""
    int8: str | None
    """The units for products of bytes: "AMX" or "VNNI"; None where these are absent, and sums may overflow."""

    def __str__(self) -> str:
        units = (f"{dtype} on {unit}" for dtype, unit in (("bfloat16", self.bfloat16), ("int8", self.int8)) if unit)
        return ", ".join([self.name, f"{self.vectors} kernels", *units])


@cache
def processor() -> Processor:
    """Inspect the machine, once, as torch does."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    packing = x86 and torch.backends.mkldnn.is_available()
    bf16, vnni, amx = (packing and _has(units) for units in ("avx512_bf16", "vnni", "amx_tile"))
    bf16 &= limit not in (*_BELOW, *_WITH_VNNI)
    vnni &= limit not in _BELOW
    amx &= limit not in (*_BELOW, *_WITH_VNNI, *_WITH_BF16)
    return Processor(
        _name(),
        torch.backends.cpu.get_cpu_capability(),
        packing,
        ("AMX" if amx else "AVX512-BF16") if bf16 else None,
        ("AMX" if amx else "VNNI") if vnni else None,
    )


def rounding_on(device: torch.device) -> dict[str, str | int]:
    """Return what the rounding of numbers on a device depends on, besides their precision: an image's record has it."""
    known: dict[str, str | int] = {"torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        return known | {"units": torch.cuda.get_device_name(device)}
    units = (processor().vectors, processor().bfloat16, processor().int8)
    return known | {"units": ", ".join(dict.fromkeys(filter(None, units))), "threads": torch.get_num_threads()}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the layers of `vqdiff.denoisers.layers` work on this device in this precision."""
    if device.type != "cpu" or not processor().packing:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bf16_units(device: torch.device) -> bool:
    """Whether matrix products on the device are faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor().bfloat16 is not None


def bf16_where_faster(device: torch.device) -> torch.autocast:
    """Return a context: matrix products in bfloat16 on devices with units for it, in float32 on others."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16_units(device))


def _has(units: str) -> bool:
    return bool(getattr(torch.cpu, f"_is_{units}_supported", lambda: False)())


def _name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
