"""Small sets in every layout, of pictures whose shade tells which one they are."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

GREY16 = Path(__file__).parents[1] / "fixtures" / "grey16.png"
"""A ramp of 64 greys in 16 bits."""


def picture(shade: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 255 - shade))


def encoded(shade: int, kind: str = "PNG", size: tuple[int, int] = (16, 16)) -> bytes:
    stream = io.BytesIO()
    picture(shade, size).save(stream, kind)
    return stream.getvalue()


def truncated_jpeg() -> bytes:
    """The first half of a real JPEG file."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


def with_metadata(folder: Path, rows: Sequence[Mapping]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        picture(number).save(folder / row["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return folder


def numbered(count: int) -> list[dict]:
    return [{"file_name": f"{number:02}.png", "caption": f"number {number}"} for number in range(count)]


def tar_of(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def shades(pictures) -> list[int]:
    """Which pictures of `picture` these are."""
    return pictures.pixels[:, 0, 0, 0].tolist()
