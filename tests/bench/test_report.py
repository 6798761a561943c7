from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vqdiff.bench.machine import describe_machine
from vqdiff.bench.report import Report, Spread, check_like
from vqdiff.bench.session import less
from vqdiff.foundation.errors import InputError


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert str(Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])) == "3 (2 to 4)"
    assert str(Spread.of([0.12345])) == "0.123"


def report() -> Report:
    found = Report("small, a float32, b float32, cpu", "vqdiff bench", ["a float32", "b float32"], {"cores": 2})
    found.notes.append("A note.")
    found.add("1 image", "seconds", [1.0, 2.0, 4.0], [3.0, 4.0, 4.0], better=less)
    found.add("1 image", "share, %", [10.0], [20.0])
    found.add("2 images", "seconds", [1.0], [2.0], better=less)
    return found


def test_ratios_are_of_values_taken_in_turn() -> None:
    assert report().find("1 image", "seconds").ratio == Spread(2.0, 1.5, 2.5, 3)
    assert report().find("1 image", "share, %").ratio is None


def test_the_table_has_the_command_the_machine_and_a_row_a_quantity() -> None:
    lines = report().markdown().splitlines()
    assert lines[0] == "## small, a float32, b float32, cpu"
    assert lines[2].startswith("`vqdiff bench`, 20")
    assert lines[4:7] == ["cores 2.", "", "A note.  "]
    assert lines[8:] == [
        "|  |  | a float32 | b float32 | ratio |",
        "| --- | --- | --- | --- | --- |",
        "| 1 image | seconds | 2 (1.5 to 3) | 4 (3.5 to 4) | 2 (1.5 to 2.5) |",
        "|  | share, % | 10 | 20 |  |",
        "| 2 images | seconds | 1 | 2 | 2 |",
    ]


def test_a_program_alone_has_no_ratio() -> None:
    alone = Report("emoji", "vqdiff bench", ["a"], {})
    alone.add("1 image", "seconds", [1.0], better=less)
    assert alone.markdown().splitlines()[-3:] == ["|  |  | a |", "| --- | --- | --- |", "| 1 image | seconds | 1 |"]


def test_saving_writes_both_forms_named_by_date(tmp_path: Path) -> None:
    found = report()
    path = found.save(tmp_path / "results")
    assert path.name == f"{found.when:%Y-%m-%d-%H%M}-small-a-float32-b-float32-cpu.json"
    assert path.with_suffix(".md").read_text() == found.markdown()
    record = json.loads(path.read_text())
    assert record["rows"][0]["values"][1] == {"median": 4.0, "low": 3.5, "high": 4.0, "count": 3}
    assert (record["command"], record["machine"]) == ("vqdiff bench", {"cores": 2})
    assert len(list(path.parent.iterdir())) == 2


def test_what_differs_by_more_than_rounding_is_refused() -> None:
    ours = np.random.default_rng(0).normal(size=(2, 16, 30))
    assert "log-probabilities differ by at most 0.001" in check_like(ours, ours + 0.001, 0.01, "log-probabilities")
    for theirs in (ours + 0.1, ours[::-1], np.full_like(ours, np.nan)):
        with pytest.raises(InputError, match="do not compute the same: x differ"):
            check_like(ours, theirs, 0.01, "x")


def test_the_machine() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found["cores"] >= 1
    assert found["torch"] == torch.__version__
    assert set(found["flags"]) <= {"avx2"} | {flag for flag in found["flags"] if flag.startswith(("avx512", "amx"))}
