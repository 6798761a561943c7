"""What kept tokens and scores are keyed on: the code that makes them, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

import vqdiff
from vqdiff.evaluation import judge
from vqdiff.evaluation.source import source_hash

ROOT = Path(vqdiff.__file__).parent
MODULES = "vqdiff.pipeline", "vqdiff.evaluation.generation"


def hash_with(monkeypatch: pytest.MonkeyPatch, file: Path, addition: str) -> str:
    """The hash if ``file`` had another line at its end."""
    read = Path.read_text
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda path, *a: read(path, *a) + (addition if path == file else ""))
        return source_hash.__wrapped__(*MODULES)


@pytest.mark.parametrize("name", ["pipeline.py", "requests.py", "model/model.py", "sampling/loop.py", "text/null.py"])
def test_code_counts_and_words_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = source_hash(*MODULES)
    assert hash_with(monkeypatch, ROOT / name, "\nx = 1\n") != now
    assert hash_with(monkeypatch, ROOT / name, '\n# a comment\n"""A docstring."""\n') == now


def test_what_is_not_imported_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hash_with(monkeypatch, ROOT / "serving" / "engine.py", "\nx = 1\n") == source_hash(*MODULES)


def test_a_missing_module_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        source_hash("vqdiff.nowhere")


def test_the_judge_is_keyed_on_what_makes_tokens_and_scores() -> None:
    assert source_hash(*judge._SAMPLING) != source_hash(*judge._SCORING)
