"""``vqdiff bench``: what is refused before anything is measured, and what is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny_bench import TINY
from vqdiff.bench import sampling, training
from vqdiff.bench.report import Report
from vqdiff.cli import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--steps 0", "--steps is 0: it must be at least 1"),
        ("--batch 1 0", "--batch is 0: it must be at least 1"),
        ("--size large", '"large"'),
        ("--dtype float8", '"float8"'),
        ("--device toaster", "the device 'toaster' is not there"),
        ("--device toaster --size small --against none", "the device 'toaster' is not there"),
        ("--output missing/results", "cannot write missing/results"),
        ("training --codes 0", "--codes is 0: it must be at least 1"),
        ("training --batch 0", "--batch is 0: it must be at least 1"),
        ("training --size emoji", '"emoji"'),
        ("training --output missing/results", "cannot write missing/results"),
    ],
)
def test_a_callers_mistake_is_one_line(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["bench", *arguments.split()])
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert not out
    assert err.startswith("vqdiff: error: ")
    assert err.count("\n") == 1
    assert says in err


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # type: ignore[arg-type]  # as if it were not installed
    with pytest.raises(SystemExit) as exit:
        main(["bench", "--size", "small"])
    assert exit.value.code == 2
    assert (
        "(there is none with --against none) needs the package diffusers: pip install 'vqdiff[bench]'"
        in capsys.readouterr().err
    )


def test_results_are_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "random_architecture", lambda _: TINY)
    options = "--size small --against none --device cpu --dtype float32 --steps 1 --batch 1 --starts 0"
    main(["bench", *options.split(), "-o", str(tmp_path / "results")])
    out, err = capsys.readouterr()
    record, table = sorted((tmp_path / "results").iterdir())
    assert out == table.read_text() + "\n"
    assert f"{record}: written" in err
    assert json.loads(record.read_text())["machine"]["threads"] >= 1


@pytest.mark.parametrize(
    ("arguments", "function", "expected"),
    [
        ("", "bench_bundled", sampling.SamplingOptions(False)),
        ("--against diffusers --steps 9", "bench_random", sampling.SamplingOptions(True, steps=9)),
        ("--size emoji --against diffusers", "bench_bundled", sampling.SamplingOptions(False)),
        ("--size ithq --against none --batch 2", "bench_random", sampling.SamplingOptions(False, batches=(2,))),
        ("--size coco --against-dtype float32", "bench_random", sampling.SamplingOptions(True, None, "float32")),
        ("training", "bench_training", training.TrainingOptions()),
        ("training --codes 9 --batch 1 2", "bench_training", training.TrainingOptions(codes=9, batches=(1, 2))),
    ],
)
def test_what_is_measured(arguments: str, function: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Any]()

    def measure(*given: Any) -> Report:
        asked.extend(given)
        return Report("title", "command", ["vqdiff"], {})

    monkeypatch.setattr(training if function == "bench_training" else sampling, function, measure)
    main(["bench", *arguments.split()])
    assert expected in asked
