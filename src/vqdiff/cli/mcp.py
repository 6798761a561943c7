"""``vqdiff mcp``: a server of the Model Context Protocol, for programs with a language model."""

from __future__ import annotations

from vqdiff.cli.options import ServedModels
from vqdiff.foundation.errors import InputWarning


def mcp(
    *,
    models: ServedModels = ServedModels(),
) -> None:
    """Serve tools that generate, edit and explain images to a program with a language model (MCP).

    Such a program starts this command itself, and communicates over its stdin and stdout.
    """
    import warnings

    from vqdiff.foundation.extras import require

    require("this command", "mcp")

    from vqdiff.serving.mcp_server import run

    pipes = models.load()
    warnings.filterwarnings("ignore", category=InputWarning)  # it is part of the result
    run(pipes)
