"""``vqdiff bench``: speed and memory, ours beside diffusers' or alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def bench(
    *,
    size: Literal["emoji", "small", "coco", "ithq"] | None = None,
    against: Literal["diffusers", "none"] | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    against_dtype: Literal["float32", "bfloat16"] | None = None,
    device: str = "auto",
    steps: int | None = None,
    batch: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Measure speed and memory, step by step in turn with diffusers on the same weights, and print a table.

    Let nothing else run meanwhile. docs/performance.md says how to read the table.

    Parameters
    ----------
    size
        emoji, the bundled model at its default settings (the default without --against diffusers), or random weights
        of a size: small (12 layers of width 256), or the published coco or ithq.
    against
        diffusers (default but for emoji, which it cannot run) or none.
    dtype
        Precision of our network (default: bfloat16 where the device has units for it).
    against_dtype
        Precision of theirs (default: the same).
    device
        auto, cpu or cuda.
    steps
        Steps to time in each setting (default by size).
    batch
        Pictures drawn together, several numbers for several rows (default by size).
    output
        A folder for the results as JSON and Markdown, named by date.
    """
    from vqdiff.bench.drawing import Options, bench_bundled, bench_random
    from vqdiff.files import check_replaceable

    size = size or ("small" if against == "diffusers" else "emoji")
    if output is not None:
        check_replaceable(output)
    say = _say
    if size == "emoji" and against == "diffusers":
        say("diffusers cannot run the bundled model: it is measured alone")
    options = Options(size != "emoji" and against != "none", dtype, against_dtype, device, steps, batch)
    command = shlex.join(["vqdiff", *sys.argv[1:]])
    report = bench_bundled(options, command, say) if size == "emoji" else bench_random(size, options, command, say)
    print(report.markdown())
    if output is not None:
        say(f"{report.save(output)}: written")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
