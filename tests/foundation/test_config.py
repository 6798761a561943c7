"""Configuration files: typed, nested, strict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vqdiff.evaluation.evaluate import Evaluation
from vqdiff.evaluation.scorer_training import ScorerTraining
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.training.denoiser_settings import DiffusionTraining, GuidanceTraining
from vqdiff.training.tokenizer import TokenizerTraining

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    steps: int
    folder: Path = Path()
    kind: Literal["a", "b"] = "a"
    note: str | None = None
    fast: bool = False
    inner: Inner = field(default_factory=Inner)
    labels: dict[str, int] = field(default_factory=dict)


def read(tmp_path: Path, text: str, *changes: str) -> Outer:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return read_config(Outer, path, changes)


def test_values_defaults_and_conversions(tmp_path: Path) -> None:
    config = read(tmp_path, 'steps = 3\nfolder = "x"\n[inner]\nrate = 1\nsizes = [1, 2]\n[labels]\na = 1')
    assert config == Outer(3, Path("x"), inner=Inner(1.0, (1, 2)), labels={"a": 1})
    assert isinstance(config.inner.rate, float)


def test_changes_win_over_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, "steps = 3", "steps=4", "inner.pair=[1, 2]", "note=plain text", "fast=true", "kind=b")
    assert config == Outer(4, note="plain text", fast=True, kind="b", inner=Inner(pair=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("steps = 3\nstep = 4", (), "unknown key 'step'; did you mean 'steps'"),
        ("steps = 3\n[inner]\nrat = 1", (), "did you mean 'rate'"),
        ("fast = true", (), "'steps' is missing"),
        ("steps = 1.5", (), "steps must be int, got 1.5"),
        ("steps = true", (), "steps must be int"),
        ("steps = 3", ("kind=c",), "kind must be"),
        ("steps = 3", ("inner.pair=[1]",), "pair must be"),
        ("steps = 3", ("steps.x=1",), "'steps' is a value"),
        ("steps = 3", ("steps",), "key=value"),
        ("steps = ", (), "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text, *changes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml"):
        read_config(Outer, tmp_path / "gone.toml")


KINDS = {
    "tokenizer": TokenizerTraining,
    "decoder": TokenizerTraining,
    "diffusion": DiffusionTraining,
    "further": DiffusionTraining,
    "replace": DiffusionTraining,
    "weaker": DiffusionTraining,
    "guidance": GuidanceTraining,
    "scorer": ScorerTraining,
    "evaluation": Evaluation,
}


PATHS = sorted(path for path in (ROOT / "configs").glob("*/*.toml") if path.parent.name != "studies")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_configurations_that_come_along_are_well_formed(path: Path) -> None:
    kind = KINDS[path.stem]
    changes = ["trial.data=."] if kind is Evaluation else []
    assert isinstance(read_config(kind, path, changes), kind)
