"""Run the tests marked numeric with the kernels of lesser processors, as far as this one goes; print what was run.

    python .ci/processors.py [--seconds SECONDS]

torch and oneDNN take their kernels by what the processor has, up to a limit in an environment variable: so one machine
shows how others round. None begins once so many seconds have passed. Exits with 1 if any fails.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from vqdiff.foundation.processor import processor

here = processor()
avx512, vnni = here.vectors == "AVX512", here.int8 is not None
bf16, amx = here.bfloat16 is not None, here.bfloat16 == "AMX"
avx2 = avx512 or here.vectors == "AVX2"
LONGEST = (
    240  # seconds of a run, which takes two minutes where nothing else is computed; a single test has half of that
)
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
    print(f"This processor: {here}", flush=True)
    failed = 0
    tests = Path(__file__).parents[1].joinpath("tests").rglob("test_*.py")
    files = [str(path) for path in tests if "mark.numeric" in path.read_text("utf-8")]  # to collect all takes a while
    for name, value, has_more in LIMITS:
        if not has_more:
            print(f"{name}={value}: not run, this processor has no more than that", flush=True)
            continue
        if time.monotonic() > end:
            print(f"{name}={value}: not run, there was no time left", flush=True)
            continue
        environment = os.environ | {name: value}
        begin = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "loadfile",
            "--timeout",
            "120",
            "-m",
            "numeric",
        ]
        try:
            code = subprocess.run([*command, *files], env=environment, check=False, timeout=LONGEST).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}={value}: left out, as it was not done after {LONGEST} s", flush=True)
            continue
        failed += code != 0
        said = [sys.executable, "-c", "from vqdiff.foundation.processor import processor; print(processor())"]
        kernels = subprocess.run(said, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        took = time.monotonic() - begin
        print(f"{name}={value}: {kernels}; {'failed' if code else 'passed'} in {took:.0f} s", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
