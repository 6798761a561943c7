"""The notebooks as they are committed; `make notebooks` runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_without_traces_of_a_run(path: Path) -> None:
    text = path.read_text("utf-8")
    cells = json.loads(text)["cells"]
    assert len(text) < 300_000
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
    for cell in cells:
        assert cell["metadata"] == {}
        assert cell.get("execution_count") is None
        assert all(output["output_type"] != "error" for output in cell.get("outputs", ()))
    assert "/home/" not in text
    assert "/tmp/" not in text
