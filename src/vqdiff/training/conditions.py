"""The condition of each image in training: one of its captions, its label, or nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from vqdiff.data import Rows
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.processor import bf16_where_faster
from vqdiff.foundation.shapes import Float, Int
from vqdiff.model import Model
from vqdiff.text import AnyTextEncoder

_HEAD = 1024
"""Bytes before the tensors of a file of text features: more than its header takes."""


@runtime_checkable
class Conditions(Protocol):
    """The conditions of all rows of a data set."""

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator, share: slice) -> Tensor:
        """The conditions of ``rows[share]``; the numbers taken from ``random`` do not depend on ``share``."""
        ...


class Captions:
    """Text features of every caption, stored without padding and in half precision."""

    def __init__(self, captions: Sequence[Sequence[str]], encoder: AnyTextEncoder, file: Path) -> None:
        """Read the features from ``file``, or compute them once and store them there."""
        texts = sorted({text for row in captions for text in row}, key=lambda text: (len(text), text))
        number = {text: index for index, text in enumerate(texts)}
        self.rows = [[number[text] for text in row] for row in captions]
        self.max_tokens = encoder.max_tokens
        origin = _origin(texts, encoder)
        features = _read(file, origin)
        if features is None:
            fitting = [encoder.fit(text) for text in texts]
            if cut := [text for text, kept in zip(texts, fitting, strict=True) if text != kept]:
                print(
                    f"warning: {len(cut):,} of {len(texts):,} captions have more word pieces than max_tokens = "
                    f"{encoder.max_tokens} and are truncated: {cut[0][:40]!r} …",
                    flush=True,
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path:
                _encode(fitting, encoder, path, origin)
            features = _read(file, origin)
            assert features is not None
        self.values: Tensor = features["values"]
        """``(all tokens of all texts, C)``."""
        self.starts: Tensor = features["starts"]
        """``(number of texts + 1,)``."""

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator, share: slice) -> Float[Tensor, "B N C"]:
        """The features of one caption of each row, chosen uniformly."""
        chosen = torch.tensor([self.rows[row][random.integers(len(self.rows[row]))] for row in rows])[share]
        index = self.starts[chosen, None] + torch.arange(self.max_tokens)
        present = index < self.starts[chosen + 1, None]
        return self.values[index.clamp_max(len(self.values) - 1)].float() * present[..., None]


class Labels:
    """The class of every row."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = torch.from_numpy(labels)

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator, share: slice) -> Int[Tensor, "B"]:
        """The labels themselves."""
        del random
        return self.labels[rows[share]]


def encode_conditions(rows: Rows, model: Model, file: Path) -> Conditions | None:
    """The conditions of ``rows`` for ``model``; text features are stored in ``file``.

    Raises InputError if a row lacks the caption or label that the model needs.
    """
    if model.text_encoder is not None:
        rows.require_captions()
        return Captions(rows.captions, model.text_encoder, file)
    if model.num_classes is None:
        return None
    rows.require_labels()
    if rows.num_classes > model.num_classes:
        raise InputError(f"the data has {rows.num_classes} classes, the model knows {model.num_classes}")
    assert rows.labels is not None
    return Labels(rows.labels)


def _origin(texts: Sequence[str], encoder: AnyTextEncoder) -> str:
    """A digest of everything that text features are made from."""
    digest = hashlib.sha256(repr((texts, encoder.max_tokens)).encode())
    for name, value in encoder.model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, origin: str) -> Mapping[str, Tensor] | None:
    """Map the file, so that all processes of a machine share it and it need not fit in memory."""
    if not file.exists():
        return None
    with safe_open(file, "pt") as stored:
        if (stored.metadata() or {}).get("origin") != origin:
            return None
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


def _encode(texts: Sequence[str], encoder: AnyTextEncoder, path: Path, origin: str, batch_size: int = 256) -> None:
    """Write a safetensors file batch by batch, with one batch in memory; its header is known only at the end."""
    print(f"encoding {len(texts):,} captions", flush=True)
    starts = np.zeros(len(texts) + 1, np.int64)
    with path.open("wb") as file:
        file.seek(_HEAD + starts.nbytes)
        for start in range(0, len(texts), batch_size):
            with bf16_where_faster(encoder.model.device):
                features = encoder.encode(texts[start : start + batch_size]).cpu()
            present = features.ne(0).any(-1)
            file.write(features[present].half().numpy().tobytes())
            starts[start + 1 : start + 1 + len(features)] = present.sum(1).numpy()
        starts = starts.cumsum()
        shapes = {"starts": ("I64", [len(starts)], 8), "values": ("F16", [int(starts[-1]), encoder.width], 2)}
        head, offset = dict[str, object](__metadata__={"origin": origin}), 0
        for name, (dtype, shape, size) in shapes.items():
            end = offset + size * math.prod(shape)
            head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        file.seek(0)
        file.write((_HEAD - 8).to_bytes(8, "little") + json.dumps(head).encode().ljust(_HEAD - 8))
        file.write(starts.tobytes())
