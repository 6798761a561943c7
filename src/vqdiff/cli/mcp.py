"""``vqdiff mcp``: a server of the Model Context Protocol, for programs with a language model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from vqdiff.cli.serve import named_sources
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputWarning


def mcp(
    *,
    model: Annotated[tuple[str, ...], Parameter(negative="")] = ("emoji",),
    device: str = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve tools that generate, edit and explain images to a program with a language model (MCP).

    Such a program starts this command itself, and communicates over its stdin and stdout.

    Parameters
    ----------
    model
        A model to serve, as name=source or source; may be repeated. The first is the default.
    device
        auto, cpu, cuda or mps.
    precision
        auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with.
    """
    import warnings

    from vqdiff.foundation.extras import require

    require("this command", "mcp")

    from vqdiff.pipeline import load
    from vqdiff.serving.mcp_server import run

    sources = named_sources(model)
    pipes = {name: load(source, device=device, precision=precision) for name, source in sources.items()}
    warnings.filterwarnings("ignore", category=InputWarning)  # it is part of the result
    run(pipes)
