"""Bars of a call: in a notebook one output replaced in place, on a terminal if wanted, elsewhere nothing."""

from __future__ import annotations

import contextlib

import pytest

from bundled_model import bundled_pipeline
from vqdiff.foundation.progress import in_notebook, step_bar

NOTEBOOK = """
import vqdiff
pipe = vqdiff.load("emoji", device="cpu", precision="float32")
images = pipe("a red apple", num_images=2, batch_size=1, steps=2)
"""


def test_a_notebook_shows_one_bar_that_disappears() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(NOTEBOOK), nbformat.v4.new_code_cell("pipe.progress = False\n_ = pipe('a cat')")]
    shown = list[str]()

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):  # type: ignore[no-untyped-def]
            if msg["msg_type"] in ("display_data", "update_display_data"):
                shown.append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=cells)
    Client(notebook, kernel_name="python3", timeout=300).execute()
    bars = [f'<progress max="4" value="{done}"></progress> {done}/4 steps' for done in range(1, 5)]
    assert shown == ["", *bars, ""]
    assert [output["data"]["text/html"] for output in notebook.cells[0].outputs] == [""]
    assert notebook.cells[1].outputs == []


def test_a_bar_ends_with_the_error_that_ends_the_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with contextlib.suppress(ZeroDivisionError), step_bar("generating") as show:
        show(3, 8)
        _ = 1 / 0
    out, err = capsys.readouterr()
    assert not out
    assert "3/8 steps" in err
    assert err.endswith("\x1b[2K")  # erased


def test_a_call_elsewhere_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = bundled_pipeline("float32")
    pipe("a red apple", steps=1)
    assert capsys.readouterr() == ("", "")
    assert not in_notebook()
