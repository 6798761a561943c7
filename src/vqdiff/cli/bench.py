"""``vqdiff bench``: speed and memory of sampling, compared with diffusers or alone, and of training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from vqdiff.bench import Dtype, MeasuredPrecision, Size

if TYPE_CHECKING:
    from vqdiff.bench.report import Report

Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
Batches = Annotated[tuple[int, ...], Parameter(name="--batch", consume_multiple=True, negative="", show_default=False)]

app = App(name="bench", help="Measure speed and memory, compared with diffusers or alone; run nothing else meanwhile.")


@app.default
def sampling(
    *,
    size: Size | None = None,
    against: Literal["diffusers", "none"] | None = None,
    dtype: MeasuredPrecision | None = None,
    against_dtype: Dtype | None = None,
    device: str = "auto",
    steps: int | None = None,
    batches: Batches = (),
    starts: int = 3,
    output: Output = None,
) -> None:
    """Measure sampling, step by step in turn with diffusers on the same weights, and print a table.

    Run nothing else at the same time. The page "Performance" explains the table.

    Parameters
    ----------
    size
        emoji, the bundled model at its default settings (the default without --against diffusers), or random weights
        of a size: small (12 layers of width 256), or the published coco or ithq.
    against
        diffusers (the default, except for emoji, which it cannot run) or none.
    dtype
        Precision of vqdiff's network (default: bfloat16 where the device has units for it).
    against_dtype
        Precision of diffusers' network (default: the same).
    device
        auto, cpu or cuda.
    steps
        Steps to time in each setting (default by size).
    batches
        Images generated together; several numbers give several rows (default by size).
    starts
        Cold starts of each program, in processes of their own; 0 for none.
    output
        A folder for the results as JSON and Markdown, named by date.
    """
    from vqdiff.bench.sampling import SamplingOptions, bench_bundled, bench_random

    _check(output)
    size = size or ("small" if against == "diffusers" else "emoji")
    if size == "emoji" and against == "diffusers":
        _say("diffusers cannot run the bundled model: measuring vqdiff alone")
    options = SamplingOptions(
        size != "emoji" and against != "none", dtype, against_dtype, device, steps, batches, starts
    )
    command = _command()
    report = bench_bundled(options, command, _say) if size == "emoji" else bench_random(size, options, command, _say)
    _finish(report, output)


@app.command
def training(
    *,
    size: Literal["small", "coco", "ithq"] = "small",
    codes: int = 4096,
    dtype: Dtype | None = None,
    device: str = "auto",
    steps: int = 10,
    batches: Batches = (8,),
    output: Output = None,
) -> None:
    """Measure training steps, in turn with the published formulation of the loss around the same network.

    Parameters
    ----------
    size
        Of the denoiser: small (12 layers of width 256), or the published coco or ithq.
    codes
        K, the number of codes in the codebook.
    dtype
        Of the matrix products (default: bfloat16 where the device has units for it).
    device
        auto, cpu or cuda.
    steps
        Steps to time.
    batches
        Images per step; several numbers give several rows (default: 8).
    output
        A folder for the results as JSON and Markdown, named by date.
    """
    from vqdiff.bench.training import TrainingOptions, bench_training

    _check(output)
    _finish(bench_training(size, TrainingOptions(codes, dtype, device, steps, batches), _command(), _say), output)


def _check(output: Path | None) -> None:
    from vqdiff.foundation.files import check_replaceable

    if output is not None:
        check_replaceable(output)


def _command() -> str:
    return shlex.join(["vqdiff", *sys.argv[1:]])


def _finish(report: Report, output: Path | None) -> None:
    print(report.markdown())
    if output is not None:
        _say(f"{report.save(output)}: written")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
