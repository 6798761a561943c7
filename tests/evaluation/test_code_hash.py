"""What kept tokens and scores are keyed on: the code that makes them, wherever it lies."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import vqdiff
from bundled_model import linked_copy
from vqdiff.evaluation.code_hash import foreign_hash, source_hash
from vqdiff.evaluation.judge import SAMPLING_MODULES, SCORING_MODULES
from vqdiff.sampling import Reveal, get_sampler

ROOT = Path(vqdiff.__file__).parent
MODULES = "vqdiff.pipeline", "vqdiff.evaluation.generation"


IMPORTED = ("pipeline.py", "requests.py", "model/model.py", "sampling/loop.py", "text/null.py")
CODE, WORDS = "\nx = 1\n", '\n# a comment\n"""A docstring."""\n'
HASHES = """
import json, os, sys
from pathlib import Path
from vqdiff.evaluation.code_hash import source_hash

def write(path, content):  # the file itself is a link
    Path("new").write_bytes(content)
    os.replace("new", path)

modules, additions = json.load(sys.stdin)
for name, addition in additions:
    path = Path("vqdiff", name)
    before = path.read_bytes()
    write(path, before + addition.encode())
    source_hash.cache_clear()
    print(source_hash(*modules))
    write(path, before)
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """The hash with a line more at the end of a file, in a copy of the package; by file and addition."""
    folder = tmp_path_factory.mktemp("source")
    linked_copy(ROOT, folder / "vqdiff")
    additions = [(name, addition) for name in (*IMPORTED, "serving/engine.py") for addition in (CODE, WORDS)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    task = json.dumps([MODULES, additions])
    command = [sys.executable, "-c", HASHES]
    done = subprocess.run(
        command, input=task, stdout=subprocess.PIPE, text=True, check=True, cwd=folder, env=environment
    )
    return dict(zip(additions, done.stdout.split(), strict=True))


@pytest.mark.parametrize("name", IMPORTED)
def test_code_counts_and_words_do_not(name: str, changed: dict[tuple[str, str], str]) -> None:
    now = source_hash(*MODULES)
    assert changed[name, CODE] != now
    assert changed[name, WORDS] == now


def test_what_is_not_imported_does_not_count(changed: dict[tuple[str, str], str]) -> None:
    assert changed["serving/engine.py", CODE] == source_hash(*MODULES)


def test_a_missing_module_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        source_hash("vqdiff.nowhere")


def test_the_judge_is_keyed_on_what_makes_tokens_and_scores() -> None:
    assert source_hash(*SAMPLING_MODULES) != source_hash(*SCORING_MODULES)


def test_code_of_other_packages_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order in a sampler of ours, and a part of a network."""
    assert foreign_hash(get_sampler("purity"), nn.Linear(1, 1), None) == ""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_package.py").write_text("def by_nothing(purity, u):\n    return u\n")
    order = importlib.import_module("other_package").by_nothing
    first = foreign_hash(Reveal(order))
    (tmp_path / "other_package.py").write_text("def by_nothing(purity, u):\n    return -u\n")
    assert first not in ("", foreign_hash(Reveal(order)))
    part = type("Part", (nn.Module,), {"__module__": "other_package"})
    assert foreign_hash(nn.Sequential(part())) == foreign_hash(Reveal(order))
