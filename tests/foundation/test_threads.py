from __future__ import annotations

import subprocess
import sys

import pytest

from vqdiff.foundation.threads import gnu_openmp

COUNT = """
import os, time, torch
from vqdiff.foundation.threads import release_threads
def threads(): return len(os.listdir("/proc/self/task"))
torch.set_num_threads(2)
before = threads()
torch.rand(1_000_000).mul(2)
during = threads()
release_threads()
for _ in range(100):
    if threads() < during: break
    time.sleep(0.05)
after = threads()
assert float(torch.ones(1_000_000).mul(2).sum()) == 2_000_000
print(before, during, after)
"""


@pytest.mark.skipif(gnu_openmp() is None, reason="torch uses another OpenMP than GNU's")
def test_who_rests_has_no_threads_of_others_awake() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, during, after = map(int, done.stdout.split())
    assert during > before
    assert after < during
