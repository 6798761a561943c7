"""HTML shared by the tabs: images, progress and errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from vqdiff.serving.errors import failure_of
from vqdiff.serving.page.generation import Panel, Progress

_WORDS = {"edit": "Edit", "why": "Why?"}


def script(name: str) -> str:
    """Return the text of a file in this folder."""
    return (files("vqdiff.serving.page") / name).read_text(encoding="utf-8")


def note(text: str) -> str:
    """Return a status line."""
    return f'<p class="vq-note" role="status">{escape(text)}</p>'


def problem(error: Exception) -> str:
    """Return an error line, with the API's message."""
    message = failure_of(error)[1].error.message
    return f'<p class="vq-problem" role="alert">{escape(message[:1].upper() + message[1:])}</p>'


def state(progress: Progress) -> str:
    """Return a line about the progress."""
    if progress.complete:
        return note(" ".join(["Done.", *(f"But {remark}." for remark in progress.remarks)]))
    if progress.done:
        return note(f"Generating: {progress.done} of {progress.total} steps.")
    return note(f"Waiting: {progress.waiting} requests in the queue." if progress.waiting > 1 else "Starting …")


def empty(text: str) -> str:
    """Return a placeholder for images."""
    return f'<div class="vq-empty">{escape(text)}</div>'


def grid(cells: Sequence[Panel], actions: Sequence[str]) -> str:
    """Return images with actions: keep (the seed), edit, why."""
    kind = "vq-grid vq-pairs" if len(cells) in (2, 4) else "vq-grid"
    return f'<div class="{kind}">{"".join(card(cell, actions) for cell in cells)}</div>'


def card(cell: Panel, actions: Sequence[str] = ()) -> str:
    """Return one image: a preview, or finished, with its seed, a download link, and buttons for `pictures.js`."""
    if cell.file is None:
        image = f'<img src="{cell.image}" alt="">' if cell.image else ""
        below = f"step {cell.step} of {cell.steps}" if cell.image else "&nbsp;"
        return _figure("vq-card vq-draft", "", image, f"<span>{below}</span>")
    prompt = cell.drawing.prompt or "an image"
    drawing = cell.drawing.model_copy(update={"seed": cell.seed, "n": 1, "image": None, "mask": None})
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
    buttons = "".join(
        f'<button type="button" data-act="{one}">{_WORDS[one]}</button>' for one in actions if one in _WORDS
    )
    return _figure(
        "vq-card",
        f'data-drawing="{escape(drawing.model_dump_json(exclude_defaults=True))}"',
        f'<img src="{cell.image}" alt="{escape(prompt)}">',
        _seed(cell.seed, kept="keep" in actions)
        + f'<span>{buttons}<a href="{cell.image}" download="{name}-{cell.seed}.png">Download</a></span>',
    )


def _seed(seed: int, *, kept: bool) -> str:
    if not kept:
        return f"<span>seed {seed}</span>"
    return f'<button type="button" data-act="keep" title="Keep this seed">seed {seed}</button>'


def _figure(kind: str, data: str, image: str, below: str) -> str:
    return f'<figure class="{kind}" {data}><div class="vq-frame">{image}</div><figcaption>{below}</figcaption></figure>'
