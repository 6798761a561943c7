"""Check a data set before training: the number and sizes of images, and what is broken, missing or duplicated."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vqdiff.data.cache import ahead
from vqdiff.data.image_set import square
from vqdiff.data.rows import CAPTION_COLUMNS, LABEL_COLUMNS, captions_of, faults_of, label_of
from vqdiff.data.sources import Row
from vqdiff.data.splits import find_splits
from vqdiff.foundation.images import ImageError, decode
from vqdiff.foundation.progress import track

_BATCH = 64
_SHOWN = 48  # images on the contact sheet
_THUMBNAIL = 96


@dataclass
class SplitReport:
    """The findings in one split."""

    name: str
    pictures: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of each image that can be read."""
    captions: Counter[str] = field(default_factory=Counter)
    """Number of images with each."""
    labels: Counter[int | str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    """Faults in the captions, labels and other columns."""
    broken: list[str] = field(default_factory=list)
    """Images that cannot be read, and entries that are left out."""
    wordless: list[str] = field(default_factory=list)
    """Images without a caption."""
    unlabelled: list[str] = field(default_factory=list)
    """Images without a class."""
    repeated: list[str] = field(default_factory=list)
    """Images whose file is identical to that of another."""
    unread: list[str] = field(default_factory=list)
    """Files that are not read."""
    columns: set[str] = field(default_factory=set)
    """Names of the other columns."""

    def note(self, row: Row) -> None:
        """Add an image's captions, labels and columns to the counts."""
        captions, label = captions_of(row.columns), label_of(row.columns)
        self.captions.update(set(captions))
        if not captions:
            self.wordless.append(f"{row.name} {_no_caption(row.columns)}")
        if label is None:
            self.unlabelled.append(f"{row.name} has no class")
        else:
            self.labels[label] += 1
        self.columns |= {name for name in row.columns if name.lower() not in (*CAPTION_COLUMNS, *LABEL_COLUMNS)}

    def faults(self) -> list[str]:
        """One line per fault; missing captions and classes are faults only if other images have them."""
        lines = [*self.mistakes, *self.broken]
        lines += self.wordless if self.captions else []
        lines += self.unlabelled if self.labels else []
        return [f"{self.name}: {line}" for line in (lines if self.pictures else [*lines, "there are no images"])]

    def summary(self, image_size: int) -> Iterator[str]:
        """A summary in a few lines."""
        yield f"{self.name}: {self.pictures:,} images"
        if self.sizes:
            order = sorted(self.sizes, key=lambda size: (min(size), max(size)))
            few, half, many = (f"{width} × {height}" for width, height in (order[0], order[len(order) // 2], order[-1]))
            small = sum(min(size) < image_size for size in order)
            yield f"  sizes: {few} to {many}, median {half}; {small:,} ({small / len(order):.0%}) below {image_size}"
        if self.pictures:
            yield f"  captions: {self._about_captions()}"
        if self.labels:
            counts = self.labels.values()
            yield f"  classes: {len(counts):,}, of {min(counts):,} to {max(counts):,} images"
        if self.repeated:
            more = ", …" if len(self.repeated) > 3 else ""
            yield f"  duplicates: {len(self.repeated):,} images: {', '.join(self.repeated[:3])}{more}"
        if self.unread:
            more = ", …" if len(self.unread) > 3 else ""
            yield f"  not read: {len(self.unread):,} other files: {', '.join(self.unread[:3])}{more}"

    def _about_captions(self) -> str:
        if not self.captions:
            others = f" (there are columns {', '.join(sorted(self.columns))})" if self.columns else ""
            return f"none{others}; suitable for a model that needs none"
        text, times = self.captions.most_common(1)[0]
        frequent = f'; "{text}" is the caption of {times:,} images' if times > 1 else ""
        return f"{self.captions.total():,}, of which {len(self.captions):,} differ{frequent}"


def check(data: str | Path, sheet: list[Image.Image]) -> Iterator[SplitReport]:
    """Read every image and caption of a data set, split by split; ``sheet`` receives images for a contact sheet."""
    seen = dict[bytes, str]()
    choice = random.Random(0)
    looked = 0
    for name, read in find_splits(data).items():
        report = SplitReport(name)
        source = read()
        rows = (found for batch in ahead(source.rows(), _look, _BATCH) for found in batch)
        for row, look in track(rows, f"Checking {name}", source.count):
            faults = faults_of(row)
            report.mistakes += [f"{row.name}: {fault}" for fault in faults]
            if row.left_out:
                report.broken.append(f"{row.name} is left out: {row.left_out}")
            if not row.is_image_file:
                continue
            report.pictures += 1
            if not faults:
                report.note(row)
            if isinstance(look, ImageError):
                report.broken.append(f"{row.name} cannot be read: {look}")
                continue
            report.sizes.append(look.size)
            if (other := seen.setdefault(look.digest, f"{row.name} of {name}")) != f"{row.name} of {name}":
                report.repeated.append(f"{row.name} ({other})")
            looked += 1
            if len(sheet) < _SHOWN:
                sheet.append(look.thumbnail)
            elif (place := choice.randrange(looked)) < _SHOWN:  # every image is equally likely to be shown
                sheet[place] = look.thumbnail
        report.unread = source.unread()
        yield report


def _no_caption(columns: Mapping[str, Any]) -> str:
    return "has an empty caption" if {name.lower() for name in columns} & set(CAPTION_COLUMNS) else "has no caption"


class _Look(NamedTuple):
    size: tuple[int, int]
    digest: bytes
    thumbnail: Image.Image


def _look(row: Row) -> _Look:
    content = row.read()
    picture = decode(content)
    return _Look(picture.size, hashlib.sha1(content).digest(), square(picture, _THUMBNAIL))
