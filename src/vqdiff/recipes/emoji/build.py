"""Build a Hugging Face ``datasets`` folder from pinned packages: fetch, draw, merge, write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import READING, require
from vqdiff.foundation.files import atomic_path
from vqdiff.recipes.emoji import card
from vqdiff.recipes.emoji.colours import main_colour
from vqdiff.recipes.emoji.drawings import Drawing, clear_colour, painted
from vqdiff.recipes.emoji.entries import EmojiNames, join_others, merge, read_rows, records, weigh
from vqdiff.recipes.emoji.faces import FACE_PACKAGES, read_faces
from vqdiff.recipes.emoji.icons import ICON_SETS, read_icons
from vqdiff.recipes.emoji.packages import PACKAGES, Package, fetch
from vqdiff.recipes.emoji.render import SIZE, RenderError, blank_png, draw_png, needs_smoothing
from vqdiff.recipes.emoji.views import counts, plan
from vqdiff.recipes.emoji.words import with_article

T = TypeVar("T")
D = TypeVar("D", bound="Drawable")
Track = Callable[[Iterable[T], str, int], Iterable[T]]
"""Shows progress: takes the items to iterate over, a description of the work, and the number of items."""

SPLITS = ("train", "test_comp", "test_style", "test_concept")
VIEWS = 150_000  # with icons and faces ten times the drawings
_BATCH = 64  # drawings per batch of a worker
_SHARD = 30_000  # rows per parquet file


def untracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show no progress."""
    del description, total
    return items


@dataclass(frozen=True)
class Contents:
    """What the set contains besides the drawings of emoji."""

    icons: bool = True
    faces: float = 1.0
    """Share of each collection's faces to use."""
    views: Mapping[str, int] = field(default_factory=lambda: counts(VIEWS))
    """Number of views of each kind."""


DRAWINGS_ALONE = Contents(icons=False, faces=0.0, views={})


def build(
    output: Path,
    cache: Path,
    *,
    contents: Contents | None = None,
    size: int = SIZE,
    workers: int = 0,
    track: Track[Any] = untracked,
) -> None:
    """Build the emoji set in the new folder ``output``; the same input gives the same bytes.

    Images are ``size`` pixels wide; which images there are does not depend on it. ``cache`` stores the fetched
    packages. Finished drawings are kept in a hidden folder beside ``output``, so that an interrupted build continues
    where it stopped. ``workers`` processes draw (0: one per CPU).

    Raises InputError if ``output`` exists already, if it cannot be written, or if a package cannot be fetched.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists already; name a new folder, or remove it to build the set again")
    require("building the set", "train", *READING, "resvg_py")
    contents = contents or Contents()
    needed = packages_for(contents)
    archives = {package: fetch(package, cache) for package in track(needed, "Fetching packages", len(needed))}
    assemble(archives, output, contents=contents, size=size, workers=workers, track=track)


def packages_for(contents: Contents) -> tuple[Package, ...]:
    """The packages that a set with ``contents`` is made from."""
    icons = [icons.style.package for icons in ICON_SETS] if contents.icons else []
    return (*PACKAGES, *icons, *(FACE_PACKAGES if contents.faces else ()))


def assemble(
    archives: Mapping[Package, Path],
    output: Path,
    *,
    contents: Contents = DRAWINGS_ALONE,
    size: int = SIZE,
    workers: int = 0,
    track: Track[Any] = untracked,
) -> None:
    """Build the set from fetched archives; see `build`."""
    output = output.absolute()
    names = EmojiNames.read(archives)
    rows = read_rows(archives, names)
    folder = output.parent / f".{output.name}.drawings"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; choose a writable folder") from error
    desk = _Desk(folder, workers)
    jobs = [desk.job(f"{row.style.name}/{row.icon}", row.artwork, quick=False) for row in rows]
    paths = desk.draw(jobs, "Drawing", track)
    blank = blank_png()
    visible = [index for index, path in enumerate(paths) if path.read_bytes() != blank]  # not white on white
    rows, paths = [rows[index] for index in visible], [paths[index] for index in visible]
    kept = merge(rows, map(_digest, paths))
    rows, pictures = [rows[index] for index in kept], [paths[index] for index in kept]
    table = records(rows)
    drawables: list[Drawable] = list(rows)
    if contents != DRAWINGS_ALONE:
        join_others(rows, table)
        _add_others(table, pictures, drawables, archives, names, desk, contents, track)
    if size != SIZE:  # the rows are determined at 128 pixels
        pairs = zip(table, drawables, strict=True)
        wanted = ((record["icon"], drawable, record.get("kind", "drawing") != "drawing") for record, drawable in pairs)
        pictures = [path for _, path in desk.compose(track(wanted, f"Drawing at {size} pixels", len(table)), size)]
    with atomic_path(output) as place:
        _write(table, pictures, place, size)
    shutil.rmtree(folder)


def _add_others(
    table: list[dict[str, Any]],
    pictures: list[Path],
    drawables: list[Drawable],
    archives: Mapping[Package, Path],
    names: EmojiNames,
    desk: _Desk,
    contents: Contents,
    track: Track[Any],
) -> None:
    """Add icons, faces and views to the table of drawings, to their images, and to the drawables."""
    blank = blank_png()
    seen = {_digest(path) for path in pictures} | {hashlib.sha256(blank).digest()}

    def add(record: dict[str, Any], path: Path, drawable: Drawable) -> None:
        """Add an image if it is new: no view may be identical to a held-out drawing."""
        if (digest := _digest(path)) not in seen:
            seen.add(digest)
            table.append(record)
            pictures.append(path)
            drawables.append(drawable)

    drawn = list(zip(table, pictures, drawables, strict=True))
    extras = list(read_icons(archives, names)) if contents.icons else []
    extras += read_faces(archives, contents.faces) if contents.faces else []
    jobs = [desk.job(f"{extra.style.name}/{extra.icon}", extra.artwork, quick=True) for extra in extras]
    for extra, path in zip(extras, desk.draw(jobs, "Drawing icons and faces", track), strict=True):
        add(extra.record(), path, extra)
    if contents.views:
        known = [
            Drawing(record, drawable.artwork, main_colour(path.read_bytes()))
            for record, path, drawable in track(drawn, "Looking at colours", len(drawn))
            if record["split"] == "train"
        ]
        for drawing in known:
            if colour := clear_colour(drawing):
                caption = f"{with_article(painted(drawing, colour))}, {drawing.record['style']} style"
                drawing.record["captions"].append(caption)
        held_out = [record for record, _, _ in drawn if record["split"] != "train"]
        views = plan(known, held_out, contents.views)
        total = sum(contents.views.values())
        wanted = ((view.name, view, True) for view in track(views, "Composing views", total))
        for number, (view, path) in enumerate(desk.compose(wanted)):
            add(view.record(number), path, view)
    check_views(table)
    weigh(table)


def check_views(table: Sequence[Mapping[str, Any]]) -> None:
    """Raise AssertionError unless every derived row is in the train split and made only of drawings in it."""
    split_of = {
        f"{record['style']}/{record['icon']}": record["split"] for record in table if record["kind"] == "drawing"
    }
    for record in table:
        if record["kind"] != "drawing":
            assert record["split"] == "train", f"{record['icon']} is in {record['split']}"
        for part in record["made_of"]:
            assert split_of[part] == "train", f"{record['icon']} has the held-out {part} in it"


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@runtime_checkable
class Drawable(Protocol):
    """The source of an image: an emoji, an icon, a face or a view."""

    @property
    def artwork(self) -> bytes:
        """An SVG document or another image file."""
        ...


@dataclass(frozen=True)
class _Job:
    name: str
    artwork: bytes
    size: int
    quick: bool
    path: Path


class _Desk:
    """The processes that draw images, and the folder in which their results are cached."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers or os.cpu_count() or 1
        self.renderers = f"{version('pillow')} {version('resvg-py')}".encode()

    def job(self, name: str, artwork: bytes, *, quick: bool, size: int = SIZE) -> _Job:
        """Make a job; its file is named after everything it depends on, so that stale drawings are never used."""
        quick = quick and not needs_smoothing(artwork)
        digest = hashlib.sha256(self.renderers + b"%d %d " % (size, quick) + artwork).hexdigest()
        return _Job(name, artwork, size, quick, self.folder / f"{digest[:32]}.png")

    def draw(self, jobs: Sequence[_Job], description: str, track: Track[Any]) -> list[Path]:
        """The images of all jobs, drawn if they are not there yet."""
        todo = {job.path: job for job in jobs if not job.path.exists()}
        for _ in track(self._work(todo.values()), description, len(todo)):
            pass
        return [job.path for job in jobs]

    def compose(self, wanted: Iterable[tuple[str, D, bool]], size: int = SIZE) -> Iterator[tuple[D, Path]]:
        """Yield each drawable and its image, drawn if it is not there yet; only a few artworks are in memory.

        ``wanted`` gives, for each drawable, its name and whether to draw it quickly.
        """
        made = list[tuple[D, Path]]()

        def missing() -> Iterator[_Job]:
            for name, drawable, quick in wanted:
                job = self.job(name, drawable.artwork, quick=quick, size=size)
                made.append((drawable, job.path))
                if not job.path.exists():
                    yield job

        for _ in self._work(missing()):
            pass
        yield from made

    def _work(self, jobs: Iterable[_Job]) -> Iterator[str]:
        """Draw in several processes, a few batches ahead; yield the name of each job that is done."""
        jobs = iter(jobs)
        waiting = deque[Future[list[str]]]()
        # A fresh process each: the parent may run threads, which a forked child must not inherit.
        with ProcessPoolExecutor(self.workers, get_context("spawn"), initializer=_start_worker) as pool:
            try:
                while batch := list(islice(jobs, _BATCH)):
                    waiting.append(pool.submit(_draw_batch, batch))
                    if len(waiting) > 2 * self.workers:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # resvg prints a trace of each panic, which `draw_png` deals with
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Exit when the parent is killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _draw_batch(jobs: Sequence[_Job]) -> list[str]:
    for job in jobs:
        try:
            png = draw_png(job.artwork, job.size, quick=job.quick)
        except RenderError as error:
            raise RenderError(f"{job.name}: {error}") from error
        unfinished = job.path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(png)
        unfinished.replace(job.path)
    return [job.name for job in jobs]


def _write(table: Sequence[dict[str, Any]], paths: Sequence[Path], folder: Path, size: int) -> None:
    """Write the shards, the licences and the card."""
    (folder / "data").mkdir(parents=True)
    columns = [name for name in card.COLUMNS if name in table[0]]
    for split in SPLITS:
        chosen = [(record, path) for record, path in zip(table, paths, strict=True) if record["split"] == split]
        starts = range(0, max(1, len(chosen)), _SHARD)
        for number, start in enumerate(starts):
            name = f"{split}-{number:05}-of-{len(starts):05}.parquet"
            _write_shard(chosen[start : start + _SHARD], columns, folder / "data" / name)
    (folder / "LICENSES.json").write_text(json.dumps(card.licenses(table), indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(card.readme(table, SPLITS, size), "utf-8")


def _write_shard(chosen: Sequence[tuple[dict[str, Any], Path]], names: Sequence[str], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.list_(pa.string())
    special = {
        "captions": texts,
        "keywords": texts,
        "same_as": texts,
        "made_of": texts,
        "tone": pa.int64(),
        "variant": pa.int64(),
    }
    special |= {"has_tones": pa.bool_(), "compositional": pa.bool_(), "weight": pa.float64()}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), *((name, special.get(name, pa.string())) for name in names)])
    # This makes `datasets` decode the bytes as images.
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    schema = schema.with_metadata({"huggingface": json.dumps(features)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(chosen), 1000):
            rows = [record | {"image": _image(record, path)} for record, path in chosen[start : start + 1000]]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _image(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": f"{record['style']}-{Path(record['icon']).stem}.png"}
