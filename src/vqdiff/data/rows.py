"""Captions, labels, other columns and weights of the images of a set; stored in an Arrow file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from vqdiff.data.sources import Row, order_classes
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import require
from vqdiff.foundation.files import has_lone_surrogates

CAPTION_COLUMNS = ("captions", "caption", "text", "prompt")  # in upper or lower case, as are those of labels
LABEL_COLUMNS = ("label", "cls")

Weights = NDArray[np.float64]
Table = Any
"""A ``pyarrow.Table``; only training and evaluation need this package."""


def arrow() -> ModuleType:
    """Import pyarrow; InputError if it is not installed."""
    require("reading a set", "train", "pyarrow")
    import pyarrow

    return pyarrow


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The captions, labels and other columns of N images."""

    captions: Sequence[Sequence[str]]
    """None, one or several captions per image."""
    columns: Mapping[str, NDArray[Any]]
    """The other columns, such as ``style`` and ``role``; each ``(N,)``."""
    weights: Weights
    """The probability of sampling each image in training; ``(N,)``, sums to 1."""
    labels: NDArray[np.int64] | None = None
    """The class of each image, −1 if it has none; ``(N,)``, or None for a set without classes."""
    class_names: tuple[str, ...] = ()
    """The names of the labels, if they have names."""
    names: Sequence[str] = ()
    """The name of each image in messages."""

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def num_classes(self) -> int:
        """One more than the largest label, or the number of names; 0 without labels."""
        largest = -1 if self.labels is None else int(self.labels.max(initial=-1))
        return max(len(self.class_names), largest + 1)

    def require_captions(self) -> None:
        """Raise InputError unless every image has a caption."""
        _require([bool(texts) for texts in self.captions], self.names, "caption")

    def require_labels(self) -> None:
        """Raise InputError unless every image has a label."""
        labels = np.full(len(self), -1) if self.labels is None else self.labels
        _require((labels >= 0).tolist(), self.names, "label")


def _require(given: Sequence[bool], names: Sequence[str], what: str) -> None:
    if missing := given.count(False):
        row = given.index(False)
        name = names[row] if len(names) else f"image {row}"
        raise InputError(
            f"{name} has no {what} ({missing:,} of {len(given):,} images have none): give each one, or train a model "
            f"that needs none{'; `vqdiff data check` lists them' if missing < len(given) else ''}"
        )


AnyRows = TypeVar("AnyRows", bound=Rows)


def captioned(rows: AnyRows) -> AnyRows:
    """Return the same rows with captions; those of a set of classes alone are their names.

    Raises InputError if an image has none.
    """
    if rows.class_names and rows.labels is not None and not any(rows.captions):
        rows.require_labels()
        return replace(rows, captions=[[rows.class_names[label]] for label in rows.labels])
    rows.require_captions()
    return rows


def emphasised(rows: Rows, emphasis: Mapping[str, Mapping[str, float]]) -> Weights:
    """The sampling weights of ``rows`` with the factors of ``emphasis`` applied, summing to 1."""
    weights = rows.weights.copy()
    for column, factors in emphasis.items():
        if column not in rows.columns:
            raise InputError(f"emphasis: no column {column!r} in the data; there are {', '.join(rows.columns)}")
        weights *= [factors.get(str(value), 1.0) for value in rows.columns[column]]
    return weights / weights.sum()


def captions_of(columns: Mapping[str, Any]) -> list[str]:
    """The captions of an image, from the first caption column that has text."""
    found = {name.lower(): value for name, value in columns.items()}
    for name in CAPTION_COLUMNS:
        choice = found.get(name)
        texts = [choice] if isinstance(choice, str) else list(choice or ())
        if captions := [text.strip() for text in texts if isinstance(text, str) and text.strip()]:
            return captions
    return []


def label_of(columns: Mapping[str, Any]) -> int | str | None:
    """The label of an image: a number, or the name of a class."""
    found = {name.lower(): value for name, value in columns.items()}
    label = next((found[name] for name in LABEL_COLUMNS if found.get(name) is not None), None)
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    if isinstance(label, str):
        return label.strip()
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise InputError(f"a label must be a whole number from 0 or the name of a class, not {label!r}")
    return label


def faults_of(row: Row) -> list[str]:
    """The faults in an image's columns, one line each."""
    faults = list(row.faults)
    try:
        label_of(row.columns)
    except InputError as error:
        faults.append(str(error))
    if any(map(has_lone_surrogates, captions_of(row.columns))):
        faults.append("its caption contains half a character (a lone surrogate): write it again")
    return faults


def sound(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the same rows; InputError at the first with a fault."""
    for row in rows:
        for fault in faults_of(row):
            raise InputError(f"{row.name}: {fault}; `vqdiff data check` lists all such faults")
        yield row


def to_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Table:
    """Put names and columns of rows into an Arrow table: ``_name``, ``_captions``, ``_label``, the other columns."""
    pa = arrow()
    values: dict[str, Sequence[Any]] = {"_name": names, "_label": [_class(columns, class_names) for columns in rows]}
    for name in dict.fromkeys(name for columns in rows for name in columns):
        if name.lower() not in (*CAPTION_COLUMNS, *LABEL_COLUMNS):
            values[name] = [columns.get(name) for columns in rows]
    columns = {"_captions": pa.array([captions_of(columns) for columns in rows], pa.list_(pa.string()))}
    for name in values:
        try:
            columns[name] = pa.array(values[name])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the values of the column {name!r} are not all of one type: {error}") from error
    return pa.table(columns)


def _class(columns: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    label = label_of(columns)
    if isinstance(label, int) and label < len(class_names):
        return class_names[label]
    return None if label is None else str(label)


def join_tables(tables: Sequence[Table]) -> Table:
    """Concatenate the rows of several tables; columns that a table lacks are null there."""
    pa = arrow()
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"a column changes its type within the set: {error}") from error


def write_table(table: Table, file: Path) -> None:
    """Write an Arrow file."""
    pa = arrow()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def open_table(file: Path) -> Table:
    """Map an Arrow file into memory."""
    pa = arrow()
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def describe(table: Table, class_names: Sequence[str], where: str) -> dict[str, Any]:
    """The fields of `Rows` from a table that `to_table` made; values are read on access."""
    labels, class_names = _labels(table["_label"].to_pylist(), tuple(class_names), where)
    columns = Columns(table.drop_columns(["_name", "_captions", "_label"]))
    return {
        "captions": Column(table["_captions"]),
        "columns": columns,
        "weights": _weights(columns, len(table)),
        "labels": labels,
        "class_names": class_names,
        "names": Column(table["_name"]),
    }


def _labels(
    given: Sequence[str | None], class_names: tuple[str, ...], where: str
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    present = {label for label in given if label is not None}
    if not present:
        return None, class_names
    if not class_names and not all(label.isdecimal() for label in present):
        class_names = order_classes(present)
    number = {name: index for index, name in enumerate(class_names)} or {label: int(label) for label in present}
    if strangers := sorted(present - number.keys()):
        raise InputError(f"{where}: the class {strangers[0]!r} is not one of the known ones, {', '.join(class_names)}")
    return np.array([-1 if label is None else number[label] for label in given]), class_names


def sampling_weights(roles: Sequence[Any] | NDArray[Any]) -> Weights:
    """Weight a row by 1/√(rows of the same role), so that roles with many rows do not dominate; sums to 1."""
    _, role, counts = np.unique(np.asarray(roles), return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(counts[role])
    return weights / weights.sum()


def _weights(columns: Mapping[str, NDArray[Any]], rows: int) -> Weights:
    if "weight" not in columns:
        return sampling_weights(columns["role"]) if "role" in columns else np.full(rows, 1 / rows)
    try:
        weights = columns["weight"].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the column 'weight' must hold a number for each image: {error}") from error
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError("the column 'weight' must hold finite numbers >= 0, not all of them 0")
    return weights / weights.sum()


class Column(Sequence[Any]):
    """A column of an Arrow table as a sequence of Python values, each read on access."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self._values[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        return (value for chunk in self._values.chunks for value in chunk.to_pylist())


class Columns(Mapping[str, NDArray[Any]]):
    """The columns of an Arrow table as NumPy arrays, each made on access."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.num_columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._table.column_names:
            raise KeyError(name)
        values = self._table[name].to_pylist()
        kinds = {type(value) for value in values}
        if kinds <= {str} or kinds <= {int, float, bool}:
            return np.asarray(values)
        array = np.empty(len(values), object)
        array[:] = values
        return array
