"""Results and how they were measured: numbers that were measured differently are never compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.metrics import Estimate, differ

__all__ = ["Measurement", "Result", "Subject", "compare", "table"]


@dataclass(frozen=True)
class Measurement:
    """How scores were measured; two results may be compared if all of these fields are equal.

    prompts: the split or file that the captions come from. reference: the split of the real images. resize: the kernel
    that brought images to the features' size. features, scorer: names of the networks. The hashes are of contents.
    """

    task: Literal["text to picture", "reconstruction"]
    num_pictures: int
    prompts: str
    prompts_hash: str
    reference: str
    num_reference: int
    reference_hash: str
    image_size: int
    resize: str
    seeds: tuple[int, ...]
    features: str
    features_hash: str
    scorer: str
    scorer_hash: str
    choices: int
    """Number of captions that R-precision chooses among."""

    @property
    def hash(self) -> str:
        """Twelve hex digits of a hash of all fields."""
        return _digest(asdict(self))

    def check_like(self, other: Measurement) -> None:
        """Raise InputError, naming the fields and both values, unless ``other`` is equal."""
        if self.hash != other.hash:
            unlike = _differences(asdict(self), asdict(other))
            fields = "; ".join(f"{name} is {one} and {another}" for name, one, another in unlike)
            raise InputError(f"these results were measured differently ({fields}): evaluate both in the same way")


@dataclass(frozen=True)
class Subject:
    """What was measured: a model and how it was run.

    settings: sampler, guidance, steps and so on, as JSON values. null: the kind of null condition.
    """

    model: str
    model_hash: str
    dtype: str
    device: str
    settings: dict[str, Any]
    null: str


@dataclass(frozen=True)
class Result:
    """Scores with everything needed to reproduce them; the versions are recorded but do not prevent a comparison."""

    subject: Subject
    measurement: Measurement
    versions: dict[str, str]
    scores: dict[str, Estimate]
    command: str

    @property
    def id(self) -> str:
        """Twelve hex digits of what was measured and how."""
        return _id(asdict(self))

    def save(self, path_stem: Path) -> None:
        """Write ``path_stem.json`` and ``path_stem.md``, both or neither.

        Raises InputError if the files cannot be written, ValueError for a score that is not finite.
        """
        content = asdict(self)
        text = json.dumps(_marks(content) | content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        json_path, markdown_path = (path_stem.with_name(path_stem.name + suffix) for suffix in (".json", ".md"))
        with atomic_path(json_path) as json_file, atomic_path(markdown_path) as markdown_file:
            json_file.write_text(text, "utf-8")
            markdown_file.write_text(self.markdown(), "utf-8")

    @classmethod
    def load(cls, json_path: Path) -> Result:
        """Read a result from a file that `save` wrote.

        Raises InputError if the file is missing or is not a result.
        """
        try:
            content = json.loads(json_path.read_text("utf-8"))
        except OSError as error:
            raise InputError(f"cannot read the result {json_path}: {error.strerror}; name an existing file") from error
        except ValueError as error:
            raise InputError(f"{json_path} is not valid JSON ({error}): restore it or evaluate again") from error
        if not isinstance(content, dict) or not {"subject", "measurement"} <= content.keys():
            raise InputError(f"{json_path} is not the result of an evaluation: name a .json file written by one")
        content = {name: value for name, value in content.items() if name not in _MARKS}
        return build(cls, content, str(json_path))

    def markdown(self) -> str:
        """The scores as a table, then the protocol as a table, then the command."""
        scores = [(name, str(score), score.n) for name, score in self.scores.items()]
        protocol = {
            **_flat(asdict(self.subject)),
            **_flat(asdict(self.measurement)),
            **{f"{name} version": version for name, version in self.versions.items()},
            "measurement hash": self.measurement.hash,
            "result id": self.id,
        }
        parts = [
            f"# {self.subject.model}: {self.measurement.task}",
            table(("score", "mean ± std", "n"), scores),
            "## Protocol",
            table(("what", "value"), protocol.items()),
            f"```sh\n{self.command}\n```",
        ]
        return "\n\n".join(parts) + "\n"


def compare(a: Result, b: Result) -> str:
    """Return Markdown tables of where the subjects differ and of both scores.

    `differ` determines whether a difference exceeds the error; with a single run that is unknown.

    Raises InputError, naming the fields and both values, if the two were measured differently.
    """
    a.measurement.check_like(b.measurement)
    names = list(dict.fromkeys([*a.scores, *b.scores]))
    rows = [(name, *_contrast(a.scores.get(name), b.scores.get(name))) for name in names]
    scores = table(("score", "first", "second", "difference", "exceeds the error"), rows)
    unlike = _differences(asdict(a.subject), asdict(b.subject))
    subjects = [table(("subject", "first", "second"), unlike)] if unlike else []
    return "\n\n".join([*subjects, scores]) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table, without a newline at its end."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.replace("|", "\\|").split())


_MARKS = ("hash", "id", "checksum")
"""What a file has besides a result, for readers; the last in files of former versions."""


def _marks(content: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of how was measured, and of what was measured how."""
    return {"hash": _digest(content["measurement"]), "id": _id(content)}


def _id(content: Mapping[str, Any]) -> str:
    return _digest({key: content[key] for key in ("subject", "measurement")})


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested fields, with dotted names."""
    flat = dict[str, Any]()
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": one for key, one in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    a, b = _flat(a), _flat(b)
    pairs = [(name, a.get(name, "—"), b.get(name, "—")) for name in dict.fromkeys([*a, *b])]
    return [(name, one, other) for name, one, other in pairs if one != other]


def _contrast(a: Estimate | None, b: Estimate | None) -> tuple[str, str, str, str]:
    """First, second, difference, and whether that exceeds the error."""
    if a is None or b is None:
        return str(a or "—"), str(b or "—"), "—", "—"
    difference = b.mean - a.mean
    exceeds = {True: "yes", False: "no", None: "unknown"}[differ(a, b)]
    return str(a), str(b), f"{difference:+.3g}", exceeds
