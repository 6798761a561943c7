"""MkDocs hook: the notebooks, with their outputs, as pages of the site."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``tutorials/NAME.md`` for every notebook, and its images beside it."""
    for path in sorted((Path(config.docs_dir).parent / "notebooks").glob("*.ipynb")):
        images = list[bytes]()
        first, *cells = json.loads(path.read_text("utf-8"))["cells"]
        origin = f"*This page is made from the notebook `notebooks/{path.name}`, where you can run and change it.*"
        parts = [_text(first["source"]), origin, *(_cell(cell, path.stem, images) for cell in cells)]
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content="\n\n".join(parts)))
        for number, content in enumerate(images):
            files.append(File.generated(config, f"tutorials/{path.stem}-{number}.png", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to notebooks lead to these pages."""
    return re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", r"](tutorials/\1.md)", markdown)


def _cell(cell: dict[str, Any], name: str, images: list[bytes]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return _text(source)
    code = re.sub(r"^%%.*\n", "", source)
    return "\n\n".join([f"```python\n{code}\n```", *(_output(output, name, images) for output in cell["outputs"])])


def _text(source: str | list[str]) -> str:
    return "".join(source).replace("](../docs/", "](../")


def _output(output: dict[str, Any], name: str, images: list[bytes]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        images.append(base64.b64decode("".join(data["image/png"])))
        return f"![output]({name}-{len(images) - 1}.png)"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```"
