"""MkDocs hook: formulas become MathML, which browsers show without a script, and links to source files plain names."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'class="arithmatex">\\([(\[])(.*?)\\[)\]]<', re.DOTALL)
_SOURCE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Unlink what lies outside of the site: `../src/…` is there where the repository is read, and not here."""
    return markdown if "/" in page.file.src_uri else _SOURCE.sub(r"`\1`", markdown)


def on_page_content(content: str, **_: object) -> str:
    """Convert what `pymdownx.arithmatex` has found."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(found: re.Match[str]) -> str:
    formula = html.unescape(found[2])
    mathml = convert(formula, display="inline" if found[1] == "(" else "block")
    if "\\" in mathml:
        raise PluginError(f"latex2mathml does not know all of {formula}")
    return f'class="arithmatex">{mathml}<'
