"""``vqdiff generate``: prompts → PNG files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.errors import InputError

if TYPE_CHECKING:
    from vqdiff.pipeline import Pipeline


def generate(
    *prompts: str,
    prompts_file: Annotated[Path | None, Parameter(name=["--prompts-file", "-f"])] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("out.png"),
    num_images: Annotated[int, Parameter(name=["--num-images", "-n"])] = 1,
    label: tuple[int, ...] = (),
    unconditional: bool = False,
    model: str = "emoji",
    image_tokenizer: Path | None = None,
    preset: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    truncation: float | None = None,
    prior_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    columns: int | None = None,
    device: str = "auto",
    gif: Path | None = None,
    confidence: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
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
    model
        A bundled model's name, a model folder, or an original checkpoint (.pth).
    image_tokenizer
        The image codec's file, where a checkpoint does not hold it.
    preset
        A published sampling recipe, such as ithq-guided; the other options change it.
    steps
        Network calls, 1 to the number of tokens.
    guidance
        Guidance scale s + 1 of the paper; 1 is off.
    sampler
        One of vqdiff.samplers().
    truncation
        Share of each prediction's mass that is kept; 1 is off.
    prior_scale
        r of the purity prior: how much confident predictions are sharpened.
    seed
        Picture i has seed + i.
    batch_size
        Pictures drawn at once; the pictures do not depend on it.
    columns
        Columns of the grid (default: the pictures of a prompt, or all if there is one each).
    device
        auto, cpu or cuda.
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

    from vqdiff.files import check_writable

    for path in (output, gif, confidence):
        if path is not None:
            check_writable(path)

    from vqdiff.pipeline import load

    pipe = load(model, device=device, image_tokenizer=image_tokenizer)
    _check_kind(pipe, bool(label), unconditional)
    chosen = {
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "truncation": truncation,
        "prior_scale": prior_scale,
    }
    if preset is not None:
        from vqdiff.checkpoints.presets import recipe

        chosen = vars(recipe(preset)) | {key: value for key, value in chosen.items() if value is not None}
    record: dict[str, Any] = {"prompts": pipe.conditions(asked), "num_images": num_images, "seed": seed}
    record |= vars(pipe.settings(**chosen))
    record |= {"model": pipe.model.card.name, "model_hash": pipe.model.fingerprint}
    columns = columns or (num_images if num_images > 1 else len(record["prompts"]))
    _draw(pipe, record, chosen, output, batch_size, columns)
    if gif is not None or confidence is not None:
        _trace(pipe, record, chosen, gif, confidence)
    if json_output:
        print(json.dumps(record | {"output": str(output)}))
    else:
        drawn = record["prompts"]
        print(f"{output}: {len(drawn) * num_images} × {', '.join(map(str, drawn))[:60]}, seed {seed}")


def _check_kind(pipe: Pipeline, labels: bool, unconditional: bool) -> None:
    draws = "text" if pipe.model.text_encoder is not None else "labels" if pipe.model.num_classes else "nothing"
    if labels and draws != "labels":
        raise InputError(f"--label is for class-conditional models; this one draws from {draws}")
    if unconditional and draws != "nothing":
        raise InputError(f"--unconditional is for unconditional models; this one draws from {draws}")


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the prompts in {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _draw(
    pipe: Pipeline, record: dict[str, Any], chosen: dict[str, Any], output: Path, batch_size: int, columns: int
) -> None:
    from PIL.PngImagePlugin import PngInfo
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    from vqdiff.files import atomic_path
    from vqdiff.pictures import sheet

    with Progress(
        "drawing", BarColumn(), "{task.completed}/{task.total} steps", TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as progress:  # fmt: skip
        bar = progress.add_task("drawing", total=None)

        def on_step(done: int, total: int) -> None:
            record["network_calls"] = total // (len(record["prompts"]) * record["num_images"])
            progress.update(bar, completed=done, total=total)

        images = pipe(
            record["prompts"],
            num_images=record["num_images"],
            seed=record["seed"],
            batch_size=batch_size,
            on_step=on_step,
            **chosen,
        )
    picture = images[0] if len(images) == 1 else sheet(images, columns)
    info = PngInfo()
    info.add_itxt("vqdiff", json.dumps(record))
    with atomic_path(output) as path:
        picture.save(path, format="PNG", pnginfo=info)


def _trace(
    pipe: Pipeline, record: dict[str, Any], chosen: dict[str, Any], gif: Path | None, confidence: Path | None
) -> None:
    from vqdiff.files import atomic_path
    from vqdiff.pictures import heat_map, sheet

    frames = list(pipe.stream(record["prompts"][0], seed=record["seed"], settings=pipe.settings(**chosen)))
    if gif is not None:
        images = [frame.image for frame in frames]
        times = [120] * (len(images) - 1) + [2000]
        with atomic_path(gif) as path:
            images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    if confidence is not None:
        size = frames[0].image.size
        with atomic_path(confidence) as path:
            sheet([heat_map(frame.confidence, size) for frame in frames], columns=5).save(path, format="PNG")
