"""The bundled model, loaded once per process and precision, and copies of large folders that take no room."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import torch

import vqdiff
from vqdiff.foundation.config import Precision
from vqdiff.pipeline import Pipeline


@cache
def bundled_pipeline(precision: Precision = "auto") -> Pipeline:
    """The bundled model on the CPU, shared by the tests of this process: they must not change it."""
    with torch.inference_mode(False):  # whatever the mode of the first test that needs it
        return vqdiff.load("emoji", device="cpu", precision=precision)


def linked_copy(source: Path, target: Path) -> Path:
    """Copy a folder as hard links, or as files where links are impossible: change these only with `overwrite`."""
    return Path(shutil.copytree(source, target, copy_function=_link))


def overwrite(path: Path, content: bytes) -> None:
    """Give the file at ``path`` other content, without writing through a hard link."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another device, or a file of another user
        shutil.copy2(source, target)
