"""Typed configuration: a dataclass from a TOML file and ``key=value`` changes; unknown keys are errors."""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from vqdiff.foundation.errors import InputError, suggestion

T = TypeVar("T")

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""The number format for inference; auto is bfloat16 where the device has units for it, else float32."""


def read_config(cls: type[T], path: Path, changes: Iterable[str] = ()) -> T:
    """Read the dataclass ``cls`` from a TOML file and dotted ``key=value`` changes (values in TOML, or plain text).

    Raises InputError for a missing or malformed file, an unknown or missing key, or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set takes key=value, got {change!r}")
        *parents, last = key.strip().split(".")
        table = values
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise InputError(f"--set {change}: {parent!r} is a value, not a section")
        table[last] = _parse(text)
    return build(cls, values, str(path))


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the (nested) dataclass ``cls`` from plain ``values``; ``where`` names their origin in errors."""
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {suggestion(key, known, 'known keys: ')}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: the key {name!r} is missing")
    types_of = typing.get_type_hints(cls)
    return cls(**{key: _convert(types_of[key], value, f"{where}: {key}") for key, value in values.items()})


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", kind), value, where)
    if origin in (Union, types.UnionType):
        sections = [option for option in arguments if is_dataclass(option)]
        if len(sections) == 1 and isinstance(value, Mapping):
            return _convert(sections[0], value, where)
        for option in arguments:
            try:
                return _convert(option, value, where)
            except InputError:
                continue
    elif origin is typing.Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(value):
            return tuple(_convert(one, item, where) for one, item in zip(inner, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif kind is Any:
        return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is types.NoneType and value is None:
        return None
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    raise InputError(f"{where} must be {getattr(kind, '__name__', kind)}, got {value!r}")
