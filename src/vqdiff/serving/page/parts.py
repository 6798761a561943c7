"""Pieces of HTML that the tabs share: pictures, progress and problems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from vqdiff.serving.errors import failure_of
from vqdiff.serving.page.drawing import Cell, Progress


def script(name: str) -> str:
    """The text of a file beside this one."""
    return (files("vqdiff.serving.page") / name).read_text(encoding="utf-8")


def note(text: str) -> str:
    """A line that says what is going on."""
    return f'<p class="vq-note" role="status">{escape(text)}</p>'


def problem(error: Exception) -> str:
    """A line that says what went wrong, in the words of the API."""
    message = failure_of(error)[1].error.message
    return f'<p class="vq-problem" role="alert">{escape(message[:1].upper() + message[1:])}</p>'


def state(progress: Progress) -> str:
    """A line on how far it is."""
    if progress.complete:
        return note("Done.")
    if progress.done:
        return note(f"Drawing: {progress.done} of {progress.total} steps.")
    return note(f"Waiting: {progress.waiting} requests in the queue." if progress.waiting > 1 else "Starting …")


def empty(text: str) -> str:
    """A place where pictures will be."""
    return f'<div class="vq-empty">{escape(text)}</div>'


def grid(cells: Sequence[Cell], actions: Sequence[str] = ("edit", "why")) -> str:
    """Pictures with what can be done with them."""
    return f'<div class="vq-grid">{"".join(card(cell, actions) for cell in cells)}</div>'


def card(cell: Cell, actions: Sequence[str] = ()) -> str:
    """One picture: as it stands, or finished, with its seed, a download, and buttons for `pictures.js`."""
    prompt = cell.drawing.prompt or "a picture"
    if cell.file is None:
        image = f'<img src="{cell.image}" alt="">' if cell.image else ""
        below = f"<span>step {cell.step} of {cell.steps}</span>" if cell.image else "<span>&nbsp;</span>"
        return f'<figure class="vq-card vq-draft"><div class="vq-frame">{image}</div><figcaption>{below}</figcaption></figure>'
    words = {"edit": "Edit", "why": "Why?"}
    drawing = cell.drawing.model_copy(update={"seed": cell.seed, "n": 1, "image": None, "mask": None})
    data = escape(drawing.model_dump_json(exclude_defaults=True))
    buttons = "".join(f'<button type="button" data-act="{one}">{words[one]}</button>' for one in actions)
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"
    return (
        f'<figure class="vq-card" data-drawing="{data}">'
        f'<div class="vq-frame"><img src="{cell.image}" alt="{escape(prompt)}"></div>'
        f'<figcaption><button type="button" data-act="keep" title="Draw with this seed again">seed {cell.seed}</button>'
        f'<span>{buttons}<a href="{cell.image}" download="{name}-{cell.seed}.png">Download</a></span></figcaption></figure>'
    )
