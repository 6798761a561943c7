"""Shared by the commands that generate images: where the images go, each with a record of how it was made."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.naming import check_pattern, names, quoted
from vqdiff.cli.options import Json, ModelOptions, PromptOptions, Quiet, SettingOptions, checked
from vqdiff.foundation.errors import InputError, InputWarning

if TYPE_CHECKING:
    from PIL import Image

    from vqdiff.foundation.formats import Format
    from vqdiff.model import Job
    from vqdiff.pipeline import Pipeline
    from vqdiff.requests import Request
    from vqdiff.settings import SeedOptions


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """Where the images go, and what is printed."""

    output: Annotated[
        str,  # a path would lose the slash at its end
        Parameter(
            name=["--output", "-o"],
            allow_leading_hyphen=True,  # - is a value
            help="The file, in the format of its suffix (.png, .jpg, .svg, or .webp, which is lossless); a folder, "
            "with / at the end of its name, for a file per image; - for standard output.",
        ),
    ] = "out.png"
    format: str | None = None
    """Of files in a folder and on standard output: png (default), webp, jpg or svg."""
    name: str = "{index:03}-{prompt}-{seed}"
    """A pattern for the names of the files in a folder."""
    json_output: Json = False
    """Print a JSON record instead of a line; for a folder, one of each image."""
    quiet: Quiet = False
    """Print nothing but errors."""

    def open(self) -> Destination:
        """Return where to write; raises InputError, before any work, if that is not possible."""
        from vqdiff.foundation.files import check_writable
        from vqdiff.foundation.formats import available, format_of

        if self.quiet:
            warnings.simplefilter("ignore")
        check_pattern(self.name)
        path = Path(self.output)
        if self.output == "-":
            if sys.stdout.isatty():
                raise InputError("standard output is a terminal: name a file with -o, or redirect the image to one")
            return Destination(self, None, available(self.format or "png"))
        if path.is_dir() or self.output.endswith(("/", os.sep)):
            file_format = available(self.format or "png")
            existing = next(one for one in (path, *path.parents) if one.exists())
            check_writable(existing / "image")
            return Destination(self, path, file_format, is_folder=True)
        if self.format is not None:
            raise InputError("--format is for folders and standard output: the suffix of a file says its format")
        file_format = format_of(path)
        check_writable(path)
        return Destination(self, path, file_format)


@dataclass(frozen=True)
class Destination:
    """A file, a folder, or standard output (path None), that can be written."""

    options: OutputOptions
    path: Path | None
    format: Format
    is_folder: bool = False

    def draw(self, pipe: Pipeline, job: Job, *, columns: int, batch_size: int = 8) -> None:
        """Generate the images of a job, write them, and print a line or records about them.

        columns: of the grid that several images become, unless they go to a folder.
        """
        finished = _finished(pipe, job, batch_size, quiet=self.options.quiet)
        if self.is_folder:
            self._write_each(job, finished)
            return
        from vqdiff.foundation.images import sheet

        images, calls = map(list, zip(*finished, strict=True))
        record = job.record | {"network_calls": calls if len(set(calls)) > 1 else calls[0]}
        if len(images) > 1:
            record["columns"] = columns
        self._write(images[0] if len(images) == 1 else sheet(images, columns), record, self.path)
        self._report(record | {"output": self.options.output}, _line(self.options.output, record))

    def _write_each(self, job: Job, finished: Iterator[tuple[Image.Image, int]]) -> None:
        """Write each image as soon as it is finished, so that an interrupted command leaves what is done."""
        from vqdiff.foundation.files import make_folder

        assert self.path is not None
        made_of = [(_text(job.record_of(i)["prompt"]), seed) for i, seed in enumerate(job.seeds)]
        make_folder(self.path)
        suffix = ".jpg" if self.format == "jpeg" else f".{self.format}"
        files = names(self.options.name, made_of, suffix, taken=os.listdir(self.path))
        done = 0
        try:
            for done, ((image, calls), name) in enumerate(zip(finished, files, strict=True), 1):
                record = job.record_of(done - 1) | {"network_calls": calls}
                self._write(image, record, self.path / name)
                if self.options.json_output:
                    self._report(record | {"output": str(self.path / name)}, "")
        except KeyboardInterrupt:
            print(f"interrupted: {self.path} has {done} of {len(files)} images", file=sys.stderr)
            raise
        if not self.options.json_output:
            self._report({}, _line(f"{self.path}{os.sep}", job.record))

    def _write(self, image: Image.Image, record: dict[str, Any], path: Path | None) -> None:
        from vqdiff.foundation.files import atomic_path
        from vqdiff.foundation.formats import encode

        content = encode(image, record, self.format)
        if path is None:
            sys.stdout.buffer.write(content)
            return
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    def _report(self, record: dict[str, Any], line: str) -> None:
        if not self.options.quiet:
            out = sys.stderr if self.path is None else sys.stdout
            print(json.dumps(record) if self.options.json_output else line, file=out, flush=True)


def generate_from_image(
    kind: type[Request],
    image: Path,
    prompt: str | None,
    options: SeedOptions,
    model: ModelOptions,
    prompts: PromptOptions,
    settings: SettingOptions,
    output: OutputOptions,
    **more: Path,
) -> None:
    """Run a request of a ``kind`` that starts from an image, write the result, and print a line about it.

    ``options`` are specific to this kind, as are the images ``more``.
    """
    from vqdiff.foundation.images import read_image

    values, destination, explicit = checked(options), output.open(), settings.explicit()
    files = {"image": image, **more}
    given: dict[str, Any] = {name: read_image(path) for name, path in files.items()}
    pipe = model.load()
    chosen = kind.settings_for(pipe.model, preset=settings.preset_name(), **explicit)
    common: dict[str, Any] = {"prompt": prompts.condition(prompt), "negative": prompts.negative, "settings": chosen}
    job = kind(**given, **common, **values).job(pipe.model)
    inputs = {name: {"file": files[name].name} | hashed for name, hashed in job.record["inputs"].items()}
    destination.draw(pipe, replace(job, record=job.record | {"inputs": inputs}), columns=len(job.seeds))


def _finished(pipe: Pipeline, job: Job, batch_size: int, *, quiet: bool) -> Iterator[tuple[Image.Image, int]]:
    """Yield the images as they are finished, with the network calls of each, and a progress bar on a terminal."""
    from vqdiff.foundation.progress import step_bar

    with nullcontext(lambda done, total: None) if quiet else step_bar("generating") as show:
        before, calls = 0, 0
        for part in job.parts(batch_size):

            def on_step(done: int, total: int, before: int = before, count: int = len(part.seeds)) -> None:
                nonlocal calls
                calls = total // count
                show(calls * before + done, calls * len(job.seeds))

            for image in pipe.sample(part, batch_size=batch_size, on_step=on_step):
                yield image, calls
            before += len(part.seeds)


def _line(output: str, record: dict[str, Any]) -> str:
    """What a command prints about the images of a record."""
    prompts = [one for one in record.get("prompts", [record.get("prompt")]) if one is not None]
    seeds = record.get("seeds", [record["seed"]])
    what = quoted(prompts) or "no prompt"
    if len(seeds) == 1:
        return f"{output}: {what}, seed {seeds[0]}"
    return f"{output}: {len(seeds)} images of {what}, seeds {seeds[0]} to {seeds[-1]}"


def _text(prompt: Any) -> str:
    """A prompt, a label, a blend of two prompts or nothing, as a part of a file's name."""
    return "" if prompt is None else str(prompt["first"] if isinstance(prompt, dict) else prompt)


def warn_of_another_model(record: dict[str, Any], pipe: Pipeline, picture: Path) -> None:
    """Warn if a record names another model than the one that is loaded."""
    here = pipe.model.identity()
    if record.get("model_hash", here["model_hash"]) != here["model_hash"]:
        warnings.warn(
            f"{picture} was made by the model {record.get('model')} ({record['model_hash']}), this is {here['model']} "
            f"({here['model_hash']}): its images differ; give --model",
            InputWarning,
            stacklevel=2,
        )
