"""What a run was begun with, stored beside its checkpoint; what may differ when it is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, read_json

_FREE = {
    # where things are: what they contain is compared by the fingerprint of the data
    *("data", "output", "image_tokenizer"),
    # what is measured, shown, and written about the finished model, and where it goes
    *("held_out", "evaluate", "prompts", "sampling", "card", "hub"),
    *("run.log_every", "run.preview_every", "run.validate_every", "run.checkpoint_every", "run.trackers"),
    # when to stop
    "run.patience",
    # how the same step is computed
    *("compile", "recompute", "run.accumulation", "run.shard"),
    # the remedy for a loss that is not finite
    "run.learning_rate",
}
"""Settings that may change when a run is resumed; run.steps may also grow."""

_SAMPLED = 256
"""Number of images whose content stands for that of a set."""


@dataclass(frozen=True)
class Change:
    """A setting that differs from that of the run so far."""

    name: str
    before: Any
    now: Any

    @property
    def allowed(self) -> bool:
        """Whether the run is still the same."""
        if self.name == "run.steps":
            return self.now > self.before
        parts = self.name.split(".")
        return any(".".join(parts[:end]) in _FREE for end in range(1, len(parts) + 1))

    @property
    def remeasures(self) -> bool:
        """Whether held-out scores from before cannot be compared with those to come."""
        return self.name in ("held_out", "evaluate")

    def __str__(self) -> str:
        return f"{self.name}: {self.before} → {self.now}"


@dataclass(frozen=True)
class RunRecord:
    """The settings of a run and a fingerprint of its data, in ``run.json``."""

    settings: Mapping[str, Any]
    data: str

    @classmethod
    def of(cls, settings: Any, data: str) -> RunRecord:
        """Describe a run by its settings, a dataclass."""
        return cls(_plain(settings), data)

    @classmethod
    def read(cls, output: Path) -> RunRecord | None:
        """Read the record of the run in ``output``; None for a run of a version that wrote none."""
        if not (output / "run.json").exists():
            return None
        values = read_json(output / "run.json")
        return cls(values.get("settings", {}), values.get("data", ""))

    def write(self, output: Path) -> None:
        """Write the record of the run in ``output``."""
        with atomic_path(output / "run.json") as path:
            path.write_text(json.dumps({"settings": self.settings, "data": self.data}, indent=2) + "\n")

    def changes(self, settings: Any) -> list[Change]:
        """Return what differs in ``settings``, a dataclass; InputError if it would be another run."""
        found = list(_changes(self.settings, settings))
        if refused := [str(change) for change in found if not change.allowed]:
            less = " (fewer steps end another run)" if any(name.startswith("run.steps:") for name in refused) else ""
            raise InputError(
                f"this would not be the same run: {'; '.join(refused)}{less}; resume with the settings that it began "
                "with, or choose another output"
            )
        return found

    def check_data(self, data: str, where: Path) -> None:
        """Raise InputError if the data are not those that the run began with."""
        if self.data and self.data != data:
            raise InputError(
                f"the data of {where} are no longer those that it began with (fingerprint {self.data} → {data}): "
                "resume with the same data, or choose another output"
            )


def data_fingerprint(contents: NDArray[Any], captions: Sequence[Sequence[str]], labels: NDArray[Any] | None) -> str:
    """Twelve hex digits of a hash of a set's size and of evenly spaced rows, the same wherever the set is."""
    rows = np.unique(np.linspace(0, len(contents) - 1, min(_SAMPLED, len(contents))).astype(int))
    digest = hashlib.sha256(repr((contents.shape, str(contents.dtype))).encode())
    digest.update(np.ascontiguousarray(contents[rows]).tobytes())
    digest.update(repr([list(captions[int(row)]) for row in rows]).encode())
    digest.update(b"" if labels is None else np.asarray(labels)[rows].astype(np.int64).tobytes())
    return digest.hexdigest()[:12]


def flat(settings: Any) -> dict[str, Any]:
    """Return the settings as plain values with dotted names, as trackers take them."""
    return dict(_flat(_plain(settings)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str) else str(value)


def _changes(before: Mapping[str, Any], now: Any, prefix: str = "") -> Iterator[Change]:
    for one in fields(now):
        value = getattr(now, one.name)
        old = before.get(one.name, _plain(_default(one)))  # a setting that the version before did not have
        if is_dataclass(value) and isinstance(old, Mapping):
            yield from _changes(old, value, f"{prefix}{one.name}.")
        elif old != (new := _plain(value)):
            yield Change(f"{prefix}{one.name}", old, new)


def _default(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


def _plain(value: Any) -> Any:
    """Return settings as JSON has them."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)
