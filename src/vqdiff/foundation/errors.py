"""The exception and the warning that mean "the caller can mend this"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """A caller's mistake: one line that says what is wrong, with which value, and how to mend it.

    The command line prints the line and exits with code 2; every other exception is our own bug
    (traceback, exit code 1).
    """

    field: str | None = None
    """The option or the field of a request that is wrong, where that is known."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # it may quote another library, or a file's contents


class InputWarning(UserWarning):
    """What the caller most likely did not mean, and how to mend it; the command line prints it as one line."""


@contextmanager
def about(field: str) -> Iterator[None]:
    """Have an InputError that is raised inside name ``field``, unless it names one already."""
    try:
        yield
    except InputError as error:
        error.field = error.field or field
        raise


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among those ``known``; it suggests the nearest, or lists them."""
    names = list(known)
    near = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names) or 'none'}"
    return InputError(f"unknown {kind} {name!r}: {hint}")
