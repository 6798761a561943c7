"""Read untrusted weight files: none of their code runs, damage is detected, and errors are one line."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import LFS_POINTER

# Modules of training frameworks' objects that are stored beside the weights; they are replaced by empty stand-ins.
_INERT = ("pytorch_lightning.", "lightning.", "omegaconf.", "numpy.", "__torch__.")


class _StandIn:
    """A stand-in for an object of a foreign class; stores the state set on it and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def read_weights(path: Path, *, check: bool = True) -> dict[str, Any]:
    """Read a ``torch.save`` file, TorchScript archive or safetensors file; tensors stay on the disk until used.

    ``check`` reads the archive once to verify all checksums, which ``torch.load`` ignores. Raises InputError for a
    file that is missing, damaged, of another format, or made to run code.
    """
    content = _read(Path(path), check)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} holds a {type(content).__name__}, not named weights")
    return content


def read_table(path: Path) -> Tensor:
    """Read a vector of integers from a ``torch.save`` file; InputError for anything else, see :func:`read_weights`."""
    content = _read(Path(path), check=True)
    if not isinstance(content, Tensor) or content.dtype != torch.int64 or content.ndim != 1:
        raise InputError(f"{path} is not a mapping table: it must hold one vector of integers")
    return content


def _read(path: Path, check: bool) -> object:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with _one_line(path), path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise InputError(f"{path} is empty: download it again")
    if start == LFS_POINTER:
        raise InputError(f"{path} is a Git LFS pointer instead of the weights: run git lfs pull there")
    with _one_line(path):
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if zipfile.is_zipfile(path):
            return _read_zip(path, check)
        if start[:2] == b"PK":
            raise InputError(f"{path} is truncated: download it again")
        if start[:1] == b"\x80":  # the format before torch 1.6: a plain pickle, without checksums
            return torch.load(path, map_location="cpu", weights_only=True)
        raise InputError(f"{path} is not a weight file: it begins with {start[:8]!r}; is it a saved error page?")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):  # from torch about unusual pickles; real problems raise errors
            yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated: {error}; download it again") from error
    except Exception as error:  # a damaged pickle may raise anything
        unsafe = isinstance(error, ModuleNotFoundError | AttributeError) or "weights_only" in str(error).lower()
        what = "is rejected: it is damaged, or made to run code" if unsafe else "is damaged"
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__)
        raise InputError(f"{path} {what} ({reason.strip()[:100]}); download it again from its source") from error


def _read_zip(path: Path, check: bool) -> object:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        weights = [entry for entry in entries if "/code/" not in entry.filename]  # a script's sources may be compressed
        if packed := next((e.filename for e in weights if e.compress_type != zipfile.ZIP_STORED), None):
            raise InputError(f"{path} is not a file written by torch: its entry {packed} is compressed")
        if check and (bad := archive.testzip()):
            raise InputError(f"{path} is damaged: the checksum of its entry {bad} is wrong; download it again")
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            return _module_state(_load_zip(_without_code(archive), path))
    return _load_zip(path, path)


def _load_zip(file: Path | io.BytesIO, path: Path) -> object:
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    if foreign := [name for name in unknown if not name.startswith(_INERT)]:
        raise InputError(
            f"{path} is rejected: besides weights it would load {', '.join(foreign[:3])}, which may run code"
        )
    # One class per name, since torch stores them by class.
    stand_ins: list[Any] = [(type("StandIn", (_StandIn,), {}), name) for name in unknown]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=isinstance(file, Path) or None)


def _without_code(script: zipfile.ZipFile) -> io.BytesIO:
    """Reduce a TorchScript archive (such as OpenAI's CLIP) to the plain archive of its weights."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as plain:
        for entry in script.namelist():
            if entry.endswith(("/data.pkl", "/version", "/byteorder")) or "/data/" in entry:
                plain.writestr(entry, script.read(entry))
    buffer.seek(0)
    return buffer


def _module_state(module: object, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module that was read with stand-ins."""
    state: dict[str, Tensor] = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            state[prefix + name] = value
        elif isinstance(value, _StandIn):
            state |= _module_state(value, f"{prefix}{name}.")
    return state
