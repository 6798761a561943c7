"""``vqdiff generate``: prompts → images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.images import OutputOptions, warn_of_another_model
from vqdiff.cli.options import DrawOptions, ImagesOptions, ModelOptions, PromptOptions, SettingOptions, checked
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import options_of, whole
from vqdiff.settings import SamplingSettings

if TYPE_CHECKING:
    from vqdiff.model import Job
    from vqdiff.pipeline import Pipeline, Preview
    from vqdiff.requests import DrawRequest


def generate(
    *prompts: str,
    prompts_file: Annotated[
        Path | None,
        Parameter(name=["--prompts-file", "-f"], allow_leading_hyphen=True),  # - is a value
    ] = None,
    stdin: Annotated[bool, Parameter(name=["--stdin", "-"], negative="")] = False,
    output: OutputOptions = OutputOptions(),
    images: DrawOptions = DrawOptions(),
    label: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    unconditional: Annotated[bool, Parameter(negative="")] = False,
    like: Path | None = None,
    budget: float | None = None,
    batch_size: int = 8,
    columns: int | None = None,
    gif: Path | None = None,
    confidence: Path | None = None,
    model: ModelOptions = ModelOptions(),
    conditions: PromptOptions = PromptOptions(),
    settings: SettingOptions = SettingOptions(),
) -> None:
    """Generate images from prompts.

    One image is written as it is; several become one grid, with a row for each prompt, or the files of a folder. Each
    file contains how it was made: see vqdiff info and vqdiff redraw. Settings that are not given default to the
    model's own.

    Parameters
    ----------
    prompts
        What to generate; several prompts generate several images. A word may have a weight: "a (red:2) apple".
    prompts_file
        A file of prompts, one per line, or - for standard input; empty lines and lines that begin with # are skipped.
    stdin
        Read prompts from standard input, likewise.
    label
        A class to generate, by its number or name, for a class-conditional model; may be repeated.
    unconditional
        Generate without a prompt, for an unconditional model.
    like
        An image of vqdiff: its prompts, seed and settings apply where no other is given.
    budget
        Seconds for all images: as many steps as fit by the measured time of a step; with --error, too, the sampler is
        entropy-bound, which may need fewer.
    batch_size
        Images generated together; it does not affect the images.
    columns
        Columns of the grid (default: the images per prompt, or all images if that is 1).
    gif
        Also write the denoising of the first image as an animation, a .gif file.
    confidence
        Also write the first image's confidence (purity) at every step as a sheet of heat maps.
    """
    labels = [int(one) if one.isdecimal() else one for one in label]
    wanted = [*prompts, *_read_prompts(prompts_file, stdin), *labels]
    record = _record_of(like)
    columns = columns or record.get("columns")
    for name, value in (("batch-size", batch_size), ("columns", columns)):
        if value is not None:
            whole(f"--{name}", value, least=1)
    explicit, preset = settings.explicit(), settings.preset_name()
    if budget is not None:
        _check_budget(budget, {"--steps": explicit.get("steps"), "--gif": gif, "--confidence": confidence})
    destination = output.open()
    _check_traces(gif, confidence)
    given = {name: record[name] for name in vars(images) if name in record}
    counts = checked(ImagesOptions(**given | _explicit(images)))

    from vqdiff.requests import DrawRequest, condition_of

    pipe = model.load()
    _check_kind(pipe, bool(wanted), bool(label), unconditional)
    if like is not None:
        warn_of_another_model(record, pipe, like)
    read = {} if preset else {name: record[name] for name in options_of(SamplingSettings) if name in record}
    base = (pipe.model.sampling if preset is None else pipe.model.preset(preset)).changed(**read)
    if budget is not None:
        base = base.changed(steps=1)  # `_within` finds how many
        explicit.setdefault("sampler", _sampler_within(base.changed(**explicit)))
    chosen = pipe.model.settings(base, **explicit)
    negative = record.get("negative") if conditions.negative is None else conditions.negative
    recorded = record.get("prompts", [record.get("prompt")]) if record else []
    prompted = [conditions.condition(one) for one in wanted or [condition_of(record, one) for one in recorded]]
    if pipe.model.conditioned_on == "nothing":
        prompted = [None]
    request = DrawRequest(prompts=prompted, negative=condition_of({}, negative), settings=chosen, **counts)
    job = request.job(pipe.model) if budget is None else _within(budget, pipe, request, batch_size)
    columns = columns or (request.num_images if request.num_images > 1 else len(prompted))
    began = monotonic()
    destination.draw(pipe, job, columns=columns, batch_size=batch_size)
    if budget is not None and not output.quiet:
        spent = f"{monotonic() - began:.2f} s of {budget:g} s, for at most {job.settings.steps} steps"
        print(spent, file=sys.stderr)
    if gif is not None or confidence is not None:
        previews = pipe.stream(prompted[0], seed=request.seed, negative=request.negative, **vars(chosen))
        _trace(previews, job.record_of(0), gif, confidence)


def _within(seconds: float, pipe: Pipeline, request: DrawRequest, batch_size: int) -> Job:
    """Return the job with as many steps as fit in the time, and told to end then."""
    from vqdiff.budget import measure

    pace = measure(pipe, request.job(pipe.model), batch_size)
    steps = pace.steps(seconds, pipe.model.num_tokens)
    assert request.settings is not None
    job = replace(request, settings=replace(request.settings, steps=steps)).job(pipe.model)
    return replace(job, seconds=seconds - pace.decoding, record=job.record | {"budget": seconds})


def _sampler_within(settings: SamplingSettings) -> str:
    """The sampler for a budget: the one that has an error per step if that is set, else one with a number of steps."""
    from vqdiff.sampling import get_sampler
    from vqdiff.sampling.checks import uses

    if settings.error > 0:
        return "entropy-bound"
    return settings.sampler if uses(get_sampler(settings.sampler), "steps") else "purity"


def _check_budget(seconds: float, others: dict[str, object]) -> None:
    if not seconds > 0:
        raise InputError(f"--budget is {seconds:g}: give seconds above 0")
    for option, value in others.items():
        if value is not None:
            raise InputError(f"--budget does not go with {option}: leave out one of them")


def _explicit(group: object) -> dict[str, Any]:
    """The options of a group that were given."""
    return {name: value for name, value in vars(group).items() if value is not None}


def _check_kind(pipe: Pipeline, prompts: bool, labels: bool, unconditional: bool) -> None:
    kind = pipe.model.conditioned_on
    if labels and kind != "labels":
        raise InputError(f"--label is for class-conditional models; this one is conditioned on {kind}")
    if unconditional and kind != "nothing":
        raise InputError(f"--unconditional is for unconditional models; this one is conditioned on {kind}")
    if prompts and kind == "nothing":
        raise InputError("this model is unconditional: leave out the prompt")


def _read_prompts(path: Path | None, stdin: bool) -> list[str]:
    """The prompts in the lines of a file and of standard input."""
    from vqdiff.foundation.files import decode_text, read_text

    text = "" if path in (None, Path("-")) else read_text(path)
    if stdin or path == Path("-"):
        text += "\n" + decode_text(sys.stdin.buffer.read(), "standard input")
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _record_of(picture: Path | None) -> dict[str, Any]:
    if picture is None:
        return {}
    from vqdiff.foundation.formats import read_record

    return read_record(picture)


def _check_traces(gif: Path | None, confidence: Path | None) -> None:
    from vqdiff.foundation.files import check_writable
    from vqdiff.foundation.formats import format_of

    if gif is not None:
        if gif.suffix.lower() != ".gif":
            raise InputError(f"cannot write {gif}: an animation is a .gif file, end its name in .gif")
        check_writable(gif)
    if confidence is not None:
        format_of(confidence)
        check_writable(confidence)


def _trace(previews: Iterator[Preview], record: dict[str, Any], gif: Path | None, confidence: Path | None) -> None:
    from vqdiff.foundation.files import atomic_path
    from vqdiff.foundation.formats import encode, format_of, save_animation
    from vqdiff.foundation.images import heat_map, sheet

    frames = list(previews)
    if gif is not None:
        times = [120] * (len(frames) - 1) + [2000]
        with atomic_path(gif) as path:
            save_animation([frame.image for frame in frames], times, record | {"shows": "denoising"}, path)
    if confidence is not None:
        size = frames[0].image.size
        maps = sheet([heat_map(frame.confidence, size) for frame in frames], columns=5)
        with atomic_path(confidence) as path:
            path.write_bytes(encode(maps, record | {"shows": "confidence"}, format_of(confidence)))
