from __future__ import annotations

import sys
import time

import pytest
import torch
from torch import nn

from vqdiff.bench.programs import Memory, Repeat, Stopwatch, Watched, repeat

CPU, SOME = torch.device("cpu"), 64 * 2**20


class Slow(nn.Module):
    """Takes 20 ms in each part, and as much again around them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.config = "a config"
        self.parts = nn.ModuleList(Slow(0) for _ in range(depth))
        self.head = Slow(0) if depth else None

    def forward(self, x: float) -> float:
        time.sleep(0.02)
        for part in self.parts:
            x = part(x)
        return x + 1

    def features(self, x: float) -> float:
        return self(x)


def test_time_inside_the_network_counts_once_however_it_is_used() -> None:
    watch = Stopwatch(CPU)
    network = Watched(Slow(2), watch)
    for use, seconds in (
        (lambda: network(0.0), 0.06),
        (lambda: network.features(0.0), 0.06),
        (lambda: network.head(network.features(0.0)), 0.08),
        (lambda: 0.0, 0.0),
    ):
        watch.start()
        time.sleep(0.01)
        use()
        watch.stop()
        assert watch.network[-1] >= seconds
        assert 0.01 <= watch.laps[-1] - watch.network[-1] < 0.02 + 0.1 * watch.laps[-1]
    assert len(watch.laps) == len(watch.network) == 4
    watch.clear()
    assert watch.laps == watch.network == []


def test_what_a_network_is_otherwise_stays() -> None:
    linear = nn.Linear(2, 3)
    network = Watched(linear, Stopwatch(CPU))
    assert network.weight is linear.weight
    assert list(network.parameters()) == list(linear.parameters())
    assert Watched(Slow(1), Stopwatch(CPU)).config == "a config"
    with pytest.raises(AttributeError):
        _ = network.nothing


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of the CPU's memory cannot be reset")
def test_memory_beyond_the_weights() -> None:
    memory = Memory(CPU)
    network = nn.Linear(SOME // 4, 1, bias=False)
    memory.keep([network])
    assert memory.kept == SOME
    memory.begin()
    assert abs(memory.beyond()) < SOME / 4
    scratch = torch.ones(SOME // 4)
    assert SOME * 0.75 < memory.beyond() < SOME * 1.25
    del scratch
    assert memory.beyond() > SOME * 0.75  # the peak stays
    memory.begin()
    assert memory.beyond() < SOME / 4
    memory.keep([network], copies=4)
    assert memory.kept == 4 * SOME


def test_repeating_warms_up_first() -> None:
    calls, turns = list[int](), list[int]()
    found = repeat(lambda: calls.append(0), Repeat(1, 3), lambda: turns.append(len(calls)), Memory(CPU))
    assert turns == [1, 2, 3]
    assert (len(calls), len(found.seconds)) == (4, 3)
