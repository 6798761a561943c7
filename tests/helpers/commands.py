"""Commands, run in this process."""

from __future__ import annotations

from vqdiff.cli import main


def run(*arguments: str) -> int:
    """Run a command on the CPU; return its exit code."""
    try:
        main([*arguments, "--device", "cpu"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
