"""``vqdiff generate``: prompts → PNG files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.drawing import Drawing, Source, write_png
from vqdiff.cli.options import Json, Output
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from vqdiff.pipeline import Pipeline, Preview


def generate(
    *prompts: str,
    prompts_file: Annotated[Path | None, Parameter(name=["--prompts-file", "-f"])] = None,
    output: Output = Path("out.png"),
    num_images: Annotated[int, Parameter(name=["--num-images", "-n"])] = 1,
    label: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    unconditional: Annotated[bool, Parameter(negative="")] = False,
    preset: str | None = None,
    seed: int = 0,
    batch_size: int = 8,
    columns: int | None = None,
    gif: Path | None = None,
    confidence: Path | None = None,
    source: Source = Source(),
    drawing: Drawing = Drawing(),
    json_output: Json = False,
) -> None:
    """Draw pictures from prompts.

    One picture is written as it is; several become one grid, a row a prompt. The PNG carries prompt, seed, settings and
    model in its metadata. Settings not given are the model's own.

    Parameters
    ----------
    prompts
        What to draw; several prompts draw several pictures.
    prompts_file
        A file of prompts, one a line.
    output
        The PNG file to write.
    num_images
        Pictures of each prompt.
    label
        Labels to draw, for a class-conditional model.
    unconditional
        Draw without a prompt, for an unconditional model.
    preset
        A published sampling recipe, such as ithq-guided; the other options change it.
    seed
        Picture i has seed + i.
    batch_size
        Pictures drawn at once; the pictures do not depend on it.
    columns
        Columns of the grid (default: the pictures of a prompt, or all if there is one each).
    gif
        Also write the denoising of the first picture as an animation.
    confidence
        Also write the first picture's confidence (purity) at every step as a sheet of heat maps.
    json_output
        Print a JSON record instead of a line.
    """
    asked = [*prompts, *_read_prompts(prompts_file), *label]
    for name, value in (("num-images", num_images), ("batch-size", batch_size)):
        if value < 1:
            raise InputError(f"--{name} is {value}: at least 1 is needed")
    if columns is not None and columns < 1:
        raise InputError(f"--columns is {columns}: at least 1 is needed")

    from vqdiff.foundation.files import check_writable

    for path in (output, gif, confidence):
        if path is not None:
            check_writable(path)

    pipe = source.load()
    _check_kind(pipe, bool(label), unconditional)
    own = pipe.model.sampling
    if preset is not None:
        from vqdiff.checkpoints.presets import recipe

        own = recipe(preset)
    settings = drawing.settings(own)
    record: dict[str, Any] = {"prompts": pipe.conditions(asked), "num_images": num_images, "seed": seed}
    record |= drawing.record(pipe, settings)
    columns = columns or (num_images if num_images > 1 else len(record["prompts"]))
    conditions = [drawing.condition(prompt) for prompt in record["prompts"]]
    options = {"num_images": num_images, "batch_size": batch_size, **vars(settings)}
    choices = {"seed": seed, "negative": drawing.negative}
    _draw(pipe, record, output, columns, conditions, **choices, **options)
    if gif is not None or confidence is not None:
        _trace(pipe.stream(conditions[0], settings=settings, **choices), gif, confidence)
    if json_output:
        print(json.dumps(record | {"output": str(output)}))
    else:
        drawn = record["prompts"]
        what = ", ".join(str(one) for one in drawn if one is not None)
        print(f"{output}: {len(drawn) * num_images} × {what[:60]}, seed {seed}")


def _check_kind(pipe: Pipeline, labels: bool, unconditional: bool) -> None:
    draws = "text" if pipe.model.text_encoder is not None else "labels" if pipe.model.num_classes else "nothing"
    if labels and draws != "labels":
        raise InputError(f"--label is for class-conditional models; this one draws from {draws}")
    if unconditional and draws != "nothing":
        raise InputError(f"--unconditional is for unconditional models; this one draws from {draws}")


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    from vqdiff.foundation.files import read_text

    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def _draw(
    pipe: Pipeline, record: dict[str, Any], output: Path, columns: int, conditions: list[Any], **options: Any
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    from vqdiff.foundation.images import sheet

    with Progress(
        "drawing", BarColumn(), "{task.completed}/{task.total} steps", TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as progress:  # fmt: skip
        bar = progress.add_task("drawing", total=None)

        def on_step(done: int, total: int) -> None:
            record["network_calls"] = total // (len(record["prompts"]) * record["num_images"])
            progress.update(bar, completed=done, total=total)

        images = pipe(conditions, on_step=on_step, **options)
    write_png(images[0] if len(images) == 1 else sheet(images, columns), record, output)


def _trace(previews: Iterator[Preview], gif: Path | None, confidence: Path | None) -> None:
    from vqdiff.foundation.files import atomic_path
    from vqdiff.foundation.images import heat_map, sheet

    frames = list(previews)
    if gif is not None:
        images = [frame.image for frame in frames]
        times = [120] * (len(images) - 1) + [2000]
        with atomic_path(gif) as path:
            images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    if confidence is not None:
        size = frames[0].image.size
        with atomic_path(confidence) as path:
            sheet([heat_map(frame.confidence, size) for frame in frames], columns=5).save(path, format="PNG")
