from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from vqdiff.pipeline import load

load_once = cache(load)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vqdiff.pipeline.load", load_once)  # a command reads the model in seconds
    return tmp_path
