"""Bars of a call: in a notebook one output replaced in place, on a terminal if wanted, elsewhere nothing."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import pytest

from bundled_model import bundled_pipeline
from vqdiff.foundation.progress import in_notebook, step_bar
from vqdiff.pipeline import Pipeline

NOTEBOOK = """
from vqdiff.foundation.progress import in_notebook, step_bar
assert in_notebook()
with step_bar("generating") as show:
    show(1, 2)
    show(2, 2)
"""


def test_a_notebook_shows_one_bar_that_disappears() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    shown = list[str]()

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):  # type: ignore[no-untyped-def]
            if msg["msg_type"] in ("display_data", "update_display_data"):
                shown.append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    Client(notebook, kernel_name="python3", timeout=300).execute()
    bars = [f'<progress max="2" value="{done}"></progress> {done}/2 steps' for done in (1, 2)]
    assert shown == ["", *bars, ""]
    assert [output["data"]["text/html"] for output in notebook.cells[0].outputs] == [""]


def test_a_bar_ends_with_the_error_that_ends_the_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with suppress(ZeroDivisionError), step_bar("generating") as show:
        show(3, 8)
        _ = 1 / 0
    out, err = capsys.readouterr()
    assert not out
    assert "3/8 steps" in err
    assert err.endswith("\x1b[2K")  # erased


@pytest.mark.parametrize(
    ("notebook", "progress", "given", "shown"),
    [
        (True, None, False, True),
        (True, False, False, False),
        (True, None, True, False),  # who has asked for every step shows them
        (False, None, False, False),
        (False, True, False, True),
    ],
)
def test_when_a_call_shows_a_bar(
    notebook: bool, progress: bool | None, given: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, calls = list[tuple[int, int]](), list[tuple[int, int]]()
    monkeypatch.setattr("vqdiff.pipeline.in_notebook", lambda: notebook)
    monkeypatch.setattr("vqdiff.pipeline.step_bar", lambda _: nullcontext(lambda *done: bars.append(done)))
    pipe = Pipeline(bundled_pipeline("float32").model)
    pipe.progress = progress
    pipe("a red apple", steps=2, on_step=(lambda *done: calls.append(done)) if given else None)
    assert (bars, calls) == ([(1, 2), (2, 2)] if shown else [], [(1, 2), (2, 2)] if given else [])


def test_this_is_no_notebook() -> None:
    assert not in_notebook()
