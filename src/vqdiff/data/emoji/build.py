"""From pinned packages to a Hugging Face ``datasets`` folder: fetch, draw, merge, write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from vqdiff.data.emoji import card
from vqdiff.data.emoji.packages import PACKAGES, Package, fetch
from vqdiff.data.emoji.render import RenderError, blank_png, draw_png
from vqdiff.data.emoji.rows import Row, merge, read_rows, records
from vqdiff.errors import InputError
from vqdiff.files import atomic_path

T = TypeVar("T")
Track = Callable[[Iterable[T], str, int], Iterable[T]]
"""Shows progress: takes the things to go through, what is being done to them and how many there are."""

SPLITS = ("train", "test_comp", "test_style", "test_concept")
_BATCH = 64  # drawings a worker takes at a time


def untracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show no progress."""
    del description, total
    return items


def build(output: Path, cache: Path, *, workers: int = 0, track: Track[Any] = untracked) -> None:
    """Build the emoji set in the new folder ``output``; the same input gives the same bytes.

    ``cache`` keeps the fetched packages. Finished drawings wait in a hidden folder beside ``output``, so that an
    interrupted build goes on where it stopped. ``workers`` processes draw (0: one per CPU).

    Raises InputError where ``output`` holds something already, can't be written, or a package can't be fetched.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists already; name a new folder, or remove it to build the set again")
    for module in ("resvg_py", "pyarrow"):
        if find_spec(module) is None:
            raise InputError(f"{module} is needed to build the set; pip install 'vqdiff[train]'")
    archives = {package: fetch(package, cache) for package in track(PACKAGES, "Fetching packages", len(PACKAGES))}
    assemble(archives, output, workers=workers, track=track)


def assemble(
    archives: Mapping[Package, Path], output: Path, *, workers: int = 0, track: Track[Any] = untracked
) -> None:
    """Build the set from fetched archives; see `build`."""
    output = output.absolute()
    rows = read_rows(archives)
    drawings = output.parent / f".{output.name}.drawings"
    try:
        drawings.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; name a place in a writable folder") from error
    # Named after the artwork and the renderers, so that no stale drawing is taken for a new one.
    renderers = f"{version('pillow')} {version('resvg-py')}".encode()
    paths = [drawings / f"{hashlib.sha256(renderers + row.artwork).hexdigest()[:32]}.png" for row in rows]
    _draw(rows, paths, workers, track)
    blank = blank_png()
    seen = [index for index, path in enumerate(paths) if path.read_bytes() != blank]  # a white drawing on white
    rows, paths = [rows[index] for index in seen], [paths[index] for index in seen]
    kept = merge(rows, (hashlib.sha256(path.read_bytes()).digest() for path in paths))
    table = records([rows[index] for index in kept])
    with atomic_path(output) as folder:
        _write(table, [paths[index] for index in kept], folder)
    shutil.rmtree(drawings)


def _draw(rows: Sequence[Row], paths: Sequence[Path], workers: int, track: Track[Any]) -> None:
    """Draw what is not there yet, in several processes."""
    todo = {path: row for row, path in zip(rows, paths, strict=True) if not path.exists()}
    jobs = [(f"{row.style.name}/{row.icon}", row.artwork, path) for path, row in todo.items()]
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    # A fresh process each: the parent may run threads, which a forked child must not inherit.
    with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), initializer=_start_worker) as pool:
        try:
            done = pool.map(_draw_batch, batches)
            for _ in track((name for names in done for name in names), "Drawing", len(jobs)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # resvg prints a trace of each panic, which `draw_png` deals with
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Don't outlive a parent that was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _draw_batch(jobs: Sequence[tuple[str, bytes, Path]]) -> list[str]:
    for name, artwork, path in jobs:
        try:
            png = draw_png(artwork)
        except RenderError as error:
            raise RenderError(f"{name}: {error}") from error
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(png)
        unfinished.replace(path)
    return [name for name, _, _ in jobs]


def _write(table: Sequence[dict[str, Any]], paths: Sequence[Path], folder: Path) -> None:
    """Write the shards, the licences and the card."""
    (folder / "data").mkdir(parents=True)
    for split in SPLITS:
        chosen = [(record, path) for record, path in zip(table, paths, strict=True) if record["split"] == split]
        _write_shard(chosen, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "LICENSES.json").write_text(json.dumps(card.licenses(table), indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(card.readme(table, SPLITS), "utf-8")


def _write_shard(chosen: Sequence[tuple[dict[str, Any], Path]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.list_(pa.string())
    special = {"captions": texts, "keywords": texts, "same_as": texts, "tone": pa.int64(), "variant": pa.int64()}
    special |= {"has_tones": pa.bool_(), "compositional": pa.bool_()}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = [name for name in card.COLUMNS if name != "image"]
    schema = pa.schema([("image", image), *((name, special.get(name, pa.string())) for name in names)])
    # What tells `datasets` to decode the bytes as pictures.
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    schema = schema.with_metadata({"huggingface": json.dumps(features)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(chosen), 1000):
            rows = [record | {"image": _image(record, path)} for record, path in chosen[start : start + 1000]]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _image(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": f"{record['style']}-{Path(record['icon']).stem}.png"}
