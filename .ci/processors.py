"""Run the tests marked numeric with the kernels of lesser processors, as far as this one goes; print what was run.

    python .ci/processors.py [--seconds SECONDS]

torch and oneDNN take their kernels by what the processor has, up to a limit in an environment variable: so one machine
shows how others round. No run begins once so many seconds have passed. Exits with 1 if any run fails.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time

import torch

from vqdiff.processor import processor

avx2, avx512 = (torch.backends.cpu.get_cpu_capability() in names for names in (("AVX2", "AVX512"), ("AVX512",)))
vnni, bf16, amx = (getattr(torch.cpu, f"_is_{units}_supported")() for units in ("vnni", "avx512_bf16", "amx_tile"))
LIMITS = [
    ("ATEN_CPU_CAPABILITY", "default", avx2),
    ("ATEN_CPU_CAPABILITY", "avx2", avx512),
    ("ONEDNN_MAX_CPU_ISA", "AVX2", avx512),
    ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", avx512 and (vnni or bf16)),
    ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", avx512 and bf16),
    ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", amx),
]
"""Variable, value, and whether this processor has more than that."""


def main() -> int:
    """Run all of them, one after the other; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=math.inf)
    end = time.monotonic() + parser.parse_args().seconds
    print(f"This processor: {processor()}", flush=True)
    failed = 0
    for name, value, has_more in LIMITS:
        if not has_more:
            print(f"{name}={value}: not run, this processor has no more than that", flush=True)
            continue
        if time.monotonic() > end:
            print(f"{name}={value}: not run, there was no time left", flush=True)
            continue
        environment = os.environ | {name: value}
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "numeric"]
        code = subprocess.run(command, env=environment, check=False).returncode
        failed += code != 0
        said = [sys.executable, "-c", "from vqdiff.processor import processor; print(processor())"]
        kernels = subprocess.run(said, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        took = time.monotonic() - begin
        print(f"{name}={value}: {kernels}; {'failed' if code else 'passed'} in {took:.0f} s", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
