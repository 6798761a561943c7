"""A command of ``vqdiff`` that fails, to see what becomes of its error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vqdiff import cli


@contextmanager
def failing_command(error: BaseException) -> Iterator[list[str]]:
    """The arguments of a command, registered for the length of the block, that raises ``error``."""

    def fail() -> None:
        raise error

    cli.app.command(fail, name="fail")
    try:
        yield ["fail"]
    finally:
        del cli.app["fail"]
