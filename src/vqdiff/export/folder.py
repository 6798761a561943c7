"""The folder of an exported model: graphs, tokenizer, null condition, and a manifest that describes them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqdiff import __version__
from vqdiff.export.checks import Check, check, table
from vqdiff.export.formats import FORMATS, OPSET, Batch, Format, trace
from vqdiff.export.graphs import Graph, Port, graphs
from vqdiff.export.samples import samples
from vqdiff.export.storage import Storage, Stored
from vqdiff.foundation.errors import InputError, unknown
from vqdiff.foundation.files import atomic_path, check_replaceable
from vqdiff.model import Model
from vqdiff.text import TextEncoder

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def export(
    model: Model,
    folder: Path,
    *,
    to: str = "onnx",
    batch: Batch = None,
    storage: Storage = "float32",
    say: Callable[[str], None] = lambda line: None,
) -> list[Check]:
    """Write a model as graphs for another runtime, compare each with PyTorch, and return how far apart they are.

    model: not packed, in float32 and on the CPU, as `vqdiff.checkpoints.read_model` reads it. to: a name of `FORMATS`.
    batch: rows of every call, None for any number. storage: how the weights are stored. say: gets lines on the
    progress.

    Raises InputError for a format whose packages are missing, for a combination that it does not have, and, without
    writing anything, for a graph that differs from PyTorch by more than the tolerance.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    if batch is not None and batch < 1:
        raise InputError(f"a batch of {batch} rows: give a number from 1 on, or free")
    if to == "openvino" and storage == "int8":
        raise InputError("OpenVINO does not compile graphs with weights stored as int8: use float16, or --to onnx")
    form = FORMATS[to]
    form.check_installed()
    check_replaceable(folder)
    parts = graphs(model)
    with atomic_path(folder) as path:
        path.mkdir()
        checks, files_of = list[Check](), dict[str, list[str]]()
        for graph in parts:
            checks += _write_graph(model, graph, form, batch, storage, path, say)
            files_of[graph.name] = sorted(file.name for file in path.glob(f"{graph.name}.*"))
        condition = _write_condition(model, path)
        manifest = {
            "format_version": FORMAT_VERSION,
            "name": model.card.name,
            "fingerprint": model.fingerprint,
            "format": to,
            "storage": storage,
            "batch": batch or "free",
            **({"opset": OPSET} if to == "onnx" else {}),
            "versions": {"vqdiff": __version__, **form.versions()},
            "licenses": model.card.licenses,
            "graphs": {graph.name: _describe(graph, files_of[graph.name], batch, path) for graph in parts},
            "checks": [dataclasses.asdict(one) for one in checks],
            **_describe_model(model),
            "condition": condition,
        }
        (path / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return checks


def _write_graph(
    model: Model,
    graph: Graph,
    form: Format,
    batch: Batch,
    storage: Storage,
    folder: Path,
    say: Callable[[str], None],
) -> list[Check]:
    """Write and check one graph; raises InputError if it differs from PyTorch by more than the tolerance."""
    say(f"{graph.name}: tracing")
    stored = Stored(graph.network, storage).eval()
    file = folder / (graph.name + form.suffix)
    form.write(trace(stored, graph, batch), graph, batch, file)
    size = sum(one.stat().st_size for one in folder.glob(f"{graph.name}.*"))
    say(f"{graph.name}: {size / 1e6:.1f} MB written; comparing it with PyTorch")
    compute = form.open(file, torch.get_num_threads())
    checks = [
        check(
            (graph.name, kind),
            rows,
            compute,
            lambda inputs: stored(*inputs),
            lambda inputs: graph.network(*inputs),
            batch=batch,
            storage=storage,
        )
        for kind, rows in samples(model, graph).items()
    ]
    if failed := [one for one in checks if not one.passed]:
        say(table(checks))
        one = failed[0]
        raise InputError(
            f"the graph {graph.name} differs from PyTorch on {one.inputs} inputs: by {one.error:.2g} where "
            f"{one.limit:.2g} is allowed, and storage changes it by {one.storage:.2g} where {one.storage_limit:.2g} is "
            "allowed; nothing was written: use --precision float32, or another format"
        )
    return checks


def _write_condition(model: Model, folder: Path) -> dict[str, Any]:
    """Write what conditions are made from, and describe it."""
    if (encoder := model.text_encoder) is None:
        if model.num_classes is None:
            return {"kind": "nothing"}
        return {"kind": "labels", "num_classes": model.num_classes, "null": model.num_classes}
    described: dict[str, Any] = {"kind": "text", "max_tokens": encoder.max_tokens, "width": encoder.width, "pad": 0}
    if isinstance(encoder, TextEncoder):
        _copy_tokenizer(encoder, folder / "tokenizer")
        shutil.copyfile(str(files("vqdiff.text") / "emoji_names.json"), folder / "emoji_names.json")
        described |= {"tokenizer": "tokenizer/tokenizer.json", "emoji_names": "emoji_names.json"}
    elif encoder.tokenizer is not None:
        encoder.tokenizer.save_pretrained(folder / "tokenizer")
        size = encoder.model.config.vocab_size
        described |= {"tokenizer": "tokenizer/tokenizer.json", "start": size - 2, "end": size - 1}
    if (null := model.null(1)) is not None:
        np.save(folder / "null_condition.npy", null[0].detach().float().numpy())
        described["null"] = "null_condition.npy"
    return described


def _copy_tokenizer(encoder: TextEncoder, folder: Path) -> None:
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (encoder.folder / name).is_file():
            shutil.copyfile(encoder.folder / name, folder / name)


def _describe(graph: Graph, names: list[str], batch: Batch, folder: Path) -> dict[str, Any]:
    def port(one: Port) -> dict[str, Any]:
        return {"name": one.name, "dtype": one.dtype, "shape": [batch or "batch", *one.shape]}

    return {
        "files": {name: (folder / name).stat().st_size for name in names},
        "inputs": [port(one) for one in graph.inputs],
        "outputs": [port(graph.output)],
    }


def _describe_model(model: Model) -> dict[str, Any]:
    """Describe tokens, images, noise and default settings."""
    schedule = model.schedule
    bars = {name: getattr(schedule, name).tolist() for name in ("alpha_bar", "beta_bar", "gamma_bar")}
    return {
        "tokens": {
            "num_tokens": model.num_tokens,
            "grid_size": model.image_tokenizer.grid_size,
            "num_codes": schedule.num_codes,
            "mask": schedule.num_codes,
        },
        "image": {"size": model.image_tokenizer.config.image_size, "channels": "RGB", "range": [0, 1]},
        "schedule": {"num_steps": schedule.num_steps, **bars},
        "sampling": dataclasses.asdict(model.sampling),
    }
