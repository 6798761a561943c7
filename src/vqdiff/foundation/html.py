"""How objects show themselves in notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(caption: str, rows: Iterable[tuple[object, ...]]) -> str:
    """Return an HTML table with a caption; the first cell of a row is its heading."""
    lines = [
        f'<tr><th scope="row">{escape(str(head))}</th>'
        + "".join(f"<td>{escape(str(one))}</td>" for one in cells)
        + "</tr>"
        for head, *cells in rows
    ]
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"
