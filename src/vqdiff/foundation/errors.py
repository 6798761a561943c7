"""The exception and the warning for what the caller can fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Invalid input: one line with what is wrong, the value, and how to fix it.

    The command line prints the line and exits with code 2; every other exception is a bug
    (traceback, exit code 1).
    """

    field: str | None = None
    """The option or request field that is wrong, if known."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # it may quote another library, or a file's contents


class InputWarning(UserWarning):
    """Something the caller probably did not intend, and how to fix it; the command line prints it as one line."""


@contextmanager
def about(field: str) -> Iterator[None]:
    """Set the ``field`` of an InputError raised inside the block, unless it already has one."""
    try:
        yield
    except InputError as error:
        error.field = error.field or field
        raise


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in ``known``; it suggests the nearest name, or lists them all."""
    return InputError(f"unknown {kind} {name!r}: {suggestion(name, known)}")


def suggestion(name: object, known: Iterable[str], otherwise: str = "choose one of ") -> str:
    """Return a question for the known name nearest to ``name``; if none is near, ``otherwise`` and all of them."""
    names = list(known)
    near = get_close_matches(str(name), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise}{', '.join(names) or 'none'}"
