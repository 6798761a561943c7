"""MkDocs hook: public names link to the page that describes them, from every page and from the docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_ROLE = re.compile(r":(?:attr|class|func|meth|mod):(?=<code>)")
_NAME = re.compile(r"<code>([A-Za-z_]\w*(?:\.\w+)*)(\([^<]*\))?</code>")
_PUBLIC = dict[str, str]()
"""The names of every `__all__` of the pages of the reference, each with the module that it is described under."""


def on_config(config: MkDocsConfig) -> None:
    """Read which names the pages describe; nothing is imported."""
    for page in sorted(Path(config.docs_dir, "api").glob("*.md"), reverse=True):  # vqdiff last: it has precedence
        for module in re.findall(r"^::: ([\w.]+)", page.read_text("utf-8"), re.MULTILINE):
            _PUBLIC.update(dict.fromkeys(_exported(Path(config.docs_dir).parent / "src", module), module))


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Mark names for autorefs, which turns those that it finds into links."""
    docstrings = page.file.src_uri.startswith("api/")

    def link(found: re.Match[str]) -> str:
        name, first = found[1], found[1].partition(".")[0]
        if name.startswith("vqdiff."):
            target = name
        elif docstrings and first in _PUBLIC:
            target = f"{_PUBLIC[first]}.{name}"
        else:
            return found[0]
        return f'<autoref identifier="{target}" optional>{found[0]}</autoref>'

    return _NAME.sub(link, _ROLE.sub("", html))


def _exported(source: Path, module: str) -> list[str]:
    path = source.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = file.read_text("utf-8") if file.exists() else ""  # of a function that has a directive of its own
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []
