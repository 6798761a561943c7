"""Writing a graph in the formats of other runtimes, and running what was written."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from vqdiff.export.graphs import Graph
from vqdiff.foundation.errors import InputError

Batch = int | None
"""Rows of a call: a fixed number, or None for any."""

OPSET = 20
"""Of ONNX graphs: the first with GELU as one operation."""
_LARGEST_FILE = 1_900_000_000  # protocol buffers end at 2 GiB


class Format(ABC):
    """A file format of graphs, with the runtime that computes them."""

    suffix: str
    packages: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Raise InputError if a package is missing."""
        for name in self.packages:
            try:
                import_module(name)
            except ModuleNotFoundError:
                raise InputError(f"this format needs the package {name}: pip install 'vqdiff[export]'") from None

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that wrote a graph."""
        return {name: version(name) for name in ("torch", *self.packages)}

    @abstractmethod
    def write(self, program: ExportedProgram, graph: Graph, batch: Batch, path: Path) -> None:
        """Write a graph to ``path``, with its weights there or in files beside it."""

    @abstractmethod
    def open(self, path: Path, threads: int) -> Callable[[tuple[Tensor, ...]], Tensor]:
        """Return a function that computes the graph of a file with the format's own runtime."""


class Onnx(Format):
    """ONNX, computed by ONNX Runtime."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, graph: Graph, batch: Batch, path: Path) -> None:
        names: dict[str, Any] = {"input_names": [port.name for port in graph.inputs]}
        with _quiet():
            onnx = torch.onnx.export(
                program, dynamo=True, verbose=False, opset_version=OPSET, output_names=[graph.output.name], **names
            )
        assert onnx is not None
        if batch is None:
            for value in (*onnx.model.graph.inputs, *onnx.model.graph.outputs):
                assert value.shape is not None
                value.shape[0] = "batch"
        stored = sum(value.nbytes for value in program.state_dict.values())
        onnx.save(path, external_data=stored > _LARGEST_FILE)

    def open(self, path: Path, threads: int) -> Callable[[tuple[Tensor, ...]], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]

        def compute(inputs: tuple[Tensor, ...]) -> Tensor:
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run(None, given)[0])

        return compute


class OpenVino(Format):
    """OpenVINO's IR: a file .xml and its weights beside it, .bin."""

    suffix = ".xml"
    packages = ("openvino",)

    def write(self, program: ExportedProgram, graph: Graph, batch: Batch, path: Path) -> None:
        import openvino

        with _quiet():
            model = openvino.convert_model(program)
        for port, value in zip((*graph.inputs, graph.output), (*model.inputs, *model.outputs), strict=True):
            value.get_tensor().set_names({port.name})
        shapes = {one.name: [-1 if batch is None else batch, *one.shape] for one in graph.inputs}
        model.reshape(shapes)
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path, threads: int) -> Callable[[tuple[Tensor, ...]], Tensor]:
        import openvino

        # Where the processor has units for bfloat16, OpenVINO would otherwise compute in it.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        model = openvino.Core().compile_model(path, "CPU", settings)

        def compute(inputs: tuple[Tensor, ...]) -> Tensor:
            return torch.from_numpy(model([value.numpy() for value in inputs])[0].copy())

        return compute


class TorchExport(Format):
    """The archive of torch.export, which PyTorch reads without vqdiff."""

    suffix = ".pt2"

    def write(self, program: ExportedProgram, graph: Graph, batch: Batch, path: Path) -> None:
        with _quiet():
            torch.export.save(program, path)

    def open(self, path: Path, threads: int) -> Callable[[tuple[Tensor, ...]], Tensor]:
        with _quiet():
            network = torch.export.load(path).module()
        return lambda inputs: network(*inputs)


FORMATS: dict[str, Format] = {"onnx": Onnx(), "openvino": OpenVino(), "torch-export": TorchExport()}
"""The formats by name."""


@torch.no_grad()
def trace(network: nn.Module, graph: Graph, batch: Batch) -> ExportedProgram:
    """Trace a network that takes any number of positional inputs, those of ``graph``."""
    rows = {} if batch else {0: Dim("batch", min=1)}
    # Traced with two rows: a dimension of 1 would be taken for one that broadcasts.
    with _quiet(), _AttentionWithHeads():
        return torch.export.export(network, graph.example(batch or 2), dynamic_shapes=((rows,) * len(graph.inputs),))


class _AttentionWithHeads(TorchFunctionMode):
    """Gives attention without heads a single one, since the exporter to ONNX knows no other."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention and args[0].ndim == 3 and not kwargs:
            return func(*(each[:, None] for each in args))[:, 0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters say about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
