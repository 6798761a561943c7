"""``vqdiff redraw``: make an image again from the record inside it, and compare."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vqdiff.cli.options import Json, ModelOptions, Quiet
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from vqdiff.model import Job
    from vqdiff.pipeline import Pipeline


def redraw(
    picture: Path,
    /,
    *,
    image: Path | None = None,
    mask: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: str | None = None,
    image_tokenizer: Path | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an image again from the record inside it, and say whether it is the same, bit for bit.

    The exit code is 0 if it is the same, 1 if not, 2 if it cannot be made again.

    Parameters
    ----------
    picture
        A file that vqdiff has written.
    image
        The image that an edited one began from.
    mask
        The mask that it was edited with.
    output
        Also write the image that was made.
    model
        The model, if it is not a bundled one; it must be the same (default: the one of the record).
    image_tokenizer
        The image codec's file, if a checkpoint does not contain it.
    device
        auto, cpu, cuda or mps (default: cpu if the image was made on one, else auto).
    precision
        auto, float32, bfloat16 or int8 (default: the one of the record).
    json_output
        Print a JSON record instead of a line.
    quiet
        Print nothing but errors: see the exit code.
    """
    from vqdiff.foundation.files import check_writable
    from vqdiff.foundation.formats import encode, format_of, read_record
    from vqdiff.foundation.images import read_image, sheet
    from vqdiff.model.finding import bundled
    from vqdiff.requests import REQUESTS, request_of

    record = read_record(picture)
    complete = all(isinstance(record.get(name), str) for name in ("kind", "model", "model_hash", "precision"))
    complete = complete and isinstance(record.get("inputs", {}), dict)
    if "shows" in record or not complete or record["kind"] not in REQUESTS:
        reason = f"it shows the {record['shows']} of an image" if "shows" in record else "its record is not complete"
        raise InputError(f"{picture} cannot be made again: {reason}")
    if output is not None:
        format_of(output)
        check_writable(output)
    inputs = {name: read_image(path) for name, path in (("image", image), ("mask", mask)) if path is not None}
    try:
        request = request_of(record, **inputs)
    except InputError as error:
        missing = record.get("inputs", {}).keys() - inputs.keys()
        hint = "; name it with --image or --mask" if missing else ""
        raise InputError(f"{picture} cannot be made again: {error}{hint}") from error
    if model is None and record["model"] not in bundled():  # whoever wrote the record does not choose what is opened
        raise InputError(
            f"{picture} was made by the model {record['model']!r} ({record['model_hash']}), which is not bundled: name "
            "it with --model"
        )
    pipe = _load(picture, record, ModelOptions(
        model or record["model"],
        image_tokenizer,
        device or ("cpu" if record.get("device") == "cpu" else "auto"),
        precision or record["precision"],
    ))  # fmt: skip
    images = _draw(pipe, request.job(pipe.model), record)
    here = pipe.model.identity() | pipe.model.curve_identity(pipe.model.settings(request.settings))
    columns = record.get("columns")
    columns = columns if isinstance(columns, int) and columns > 0 else len(images)
    drawn = images[0] if len(images) == 1 else sheet(images, columns)
    if output is not None:
        from vqdiff.foundation.files import atomic_path

        with atomic_path(output) as path:
            path.write_bytes(encode(drawn, record | here, format_of(output)))
    found = _compare(picture, record, drawn)
    reasons = [] if found.same else _reasons(record, here)
    if json_output:
        print(json.dumps({"picture": str(picture), "same": found.same, "found": found.line, "reasons": reasons}))
    elif not quiet:
        why = f"; likely because {', '.join(reasons)}" if reasons else ""
        print(f"{picture}: {found.line}{why}")
    if not found.same:
        sys.exit(1)


def _load(picture: Path, record: dict[str, Any], options: ModelOptions) -> Pipeline:
    """Load the model of a record, with as many threads as it was made with; InputError if it is another."""
    import torch

    threads = record.get("threads")
    if options.device == "cpu" and isinstance(threads, int) and 0 < threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)
    pipe = options.load()
    if pipe.model.fingerprint != record["model_hash"]:
        raise InputError(
            f"{options.model} is another model ({pipe.model.fingerprint}) than the one that made {picture} "
            f"({record['model']}, {record['model_hash']}): name that one with --model"
        )
    return pipe


def _draw(pipe: Pipeline, job: Job, record: dict[str, Any]) -> list[Image.Image]:
    """Generate the images; those of a budget, each with as many network calls as there was time for."""
    if "budget" not in record:
        return pipe.sample(job)
    made = record.get("network_calls")
    calls = made if isinstance(made, list) else [made] * len(job.seeds)
    if len(calls) != len(job.seeds) or not all(isinstance(one, int) and one > 0 for one in calls):
        raise InputError(f"the record is not complete: its network_calls are {made}")
    return [
        image for part, own in zip(job.parts(1), calls, strict=True) for image in pipe.sample(replace(part, calls=own))
    ]


@dataclass(frozen=True)
class _Found:
    same: bool
    line: str


def _compare(picture: Path, record: dict[str, Any], drawn: Image.Image) -> _Found:
    import numpy as np
    from PIL import Image

    from vqdiff.foundation.formats import encode

    content = picture.read_bytes()
    if content.lstrip().startswith(b"<"):
        same = encode(drawn, record, "svg") == content
        return _Found(
            same, f"the file is traced: the image made again traces to {'the same' if same else 'another'} one"
        )
    with Image.open(io.BytesIO(content)) as opened:
        file, name = opened.convert("RGB"), (opened.format or "").lower()
    lossy = name == "jpeg" or (name == "webp" and "quality" in record)
    if lossy:
        again = encode(drawn, {}, "jpeg" if name == "jpeg" else "webp", quality=record.get("quality"))
        drawn = Image.open(io.BytesIO(again)).convert("RGB")
    about = f"the file is lossy: the image made again, as {name} of the same quality, is " if lossy else ""
    if file.size != drawn.size:
        sizes = " and ".join(f"{one.width}×{one.height}" for one in (file, drawn))
        return _Found(False, f"{about}not the same: {sizes} pixels")
    away = np.abs(np.asarray(file, np.int16) - np.asarray(drawn, np.int16)).max(-1)
    if not away.any():
        return _Found(True, f"{about}the same, bit for bit")
    return _Found(
        False,
        f"{about}not the same: {(away > 0).sum()} of {away.size} pixels differ, by {away.max()} of 255 at most",
    )


def _reasons(record: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs between then and now, and may change how numbers round."""
    names = {
        "curve_hash": "the measurement of the reveal curve",
        "precision": "the precision",
        "version": "the version of vqdiff",
        "torch": "the version of torch",
        "device": "the device",
        "units": "the kind of processor",
        "threads": "the number of threads",
    }
    changed = [
        f"{what} was {record[name]} and is {here.get(name)}"
        for name, what in names.items()
        if name in record and record[name] != here.get(name)
    ]
    return changed or ["another processor made it, or the file was changed after it was written"]
