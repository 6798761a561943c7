"""Run notebooks and keep their outputs, small: ``python docs/figures/notebooks.py notebooks/edit.ipynb``."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image


def run(path: Path) -> None:
    """Run a notebook in its folder and write it back, without what differs from run to run."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook: NotebookNode) -> None:
    """Drop counters, times and finished progress bars; images keep 256 colours."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in _joined(cell.outputs) if output.get("data", {}).get("text/html") != ""]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
                if "image/png" in output.get("data", {}):
                    output.data = NotebookNode({"image/png": _small(output.data["image/png"])})


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What was printed, as one text, however many messages it came in."""
    joined = list[NotebookNode]()
    for output in outputs:
        if joined and output.get("name", "") == joined[-1].get("name", ...):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _small(content: str) -> str:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
