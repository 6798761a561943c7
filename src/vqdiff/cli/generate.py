"""``vqdiff generate``: prompts → PNG files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.images import record_of, write_png
from vqdiff.cli.options import ImagesOptions, Json, ModelOptions, Output, PromptOptions, SettingOptions, checked
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import whole

if TYPE_CHECKING:
    from vqdiff.pipeline import Pipeline, Preview
    from vqdiff.requests import DrawRequest


def generate(
    *prompts: str,
    prompts_file: Annotated[Path | None, Parameter(name=["--prompts-file", "-f"])] = None,
    output: Output = Path("out.png"),
    images: ImagesOptions = ImagesOptions(),
    label: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    unconditional: Annotated[bool, Parameter(negative="")] = False,
    preset: str | None = None,
    batch_size: int = 8,
    columns: int | None = None,
    gif: Path | None = None,
    confidence: Path | None = None,
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
    json_output: Json = False,
) -> None:
    """Generate images from prompts.

    One image is written as it is; several become one grid, with a row for each prompt. The PNG contains prompt, seed,
    settings and model as metadata. Settings that are not given default to the model's own.

    Parameters
    ----------
    prompts
        What to generate; several prompts generate several images.
    prompts_file
        A file of prompts, one per line.
    output
        The PNG file to write.
    label
        A class to generate, by its number or name, for a class-conditional model; may be repeated.
    unconditional
        Generate without a prompt, for an unconditional model.
    preset
        Published sampling settings, such as ithq-guided; the other options override it.
    batch_size
        Images generated together; it does not affect the images.
    columns
        Columns of the grid (default: the images per prompt, or all images if that is 1).
    gif
        Also write the denoising of the first image as an animation.
    confidence
        Also write the first image's confidence (purity) at every step as a sheet of heat maps.
    json_output
        Print a JSON record instead of a line.
    """
    labels = [int(one) if one.isdecimal() else one for one in label]
    wanted = [*prompts, *_read_prompts(prompts_file), *labels]
    counts = checked(images)
    for name, value in (("batch-size", batch_size), ("columns", columns)):
        if value is not None:
            whole(f"--{name}", value, least=1)

    from vqdiff.foundation.files import check_writable
    from vqdiff.requests import DrawRequest

    for path in (output, gif, confidence):
        if path is not None:
            check_writable(path)

    pipe = model.load()
    _check_kind(pipe, bool(label), unconditional)
    own = pipe.model.sampling
    if preset is not None:
        from vqdiff.checkpoints.presets import preset_of

        own = preset_of(preset)
    chosen = own.changed(**vars(settings))
    given = [None] if pipe.model.conditioned_on == "nothing" else wanted
    record: dict[str, Any] = {"prompts": given, **counts}
    record |= record_of(pipe, conditions, chosen)
    prompted = [conditions.condition(prompt) for prompt in given]
    request = DrawRequest(prompts=prompted, negative=conditions.negative, settings=chosen, **counts)
    columns = columns or (images.num_images if images.num_images > 1 else len(given))
    _draw(pipe, request, batch_size, record, output, columns)
    if gif is not None or confidence is not None:
        previews = pipe.stream(prompted[0], seed=images.seed, negative=conditions.negative, **vars(chosen))
        _trace(previews, gif, confidence)
    if json_output:
        print(json.dumps(record | {"output": str(output)}))
    else:
        shown = record["prompts"]
        what = ", ".join(str(one) for one in shown if one is not None)
        print(f"{output}: {len(shown) * images.num_images} × {what[:60]}, seed {images.seed}")


def _check_kind(pipe: Pipeline, labels: bool, unconditional: bool) -> None:
    kind = pipe.model.conditioned_on
    if labels and kind != "labels":
        raise InputError(f"--label is for class-conditional models; this one is conditioned on {kind}")
    if unconditional and kind != "nothing":
        raise InputError(f"--unconditional is for unconditional models; this one is conditioned on {kind}")


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    from vqdiff.foundation.files import read_text

    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def _draw(
    pipe: Pipeline, request: DrawRequest, batch_size: int, record: dict[str, Any], output: Path, columns: int
) -> None:
    from vqdiff.foundation.images import sheet
    from vqdiff.foundation.progress import step_bar

    with step_bar("generating") as show:

        def on_step(done: int, total: int) -> None:
            record["network_calls"] = total // (len(record["prompts"]) * record["num_images"])
            show(done, total)

        images = pipe.draw(request, batch_size=batch_size, on_step=on_step)
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
