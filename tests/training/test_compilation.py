"""What is compiled is compared with what is not: before a run, and where a step is not finite."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from processes import exit_codes, started
from vqdiff.foundation import progress
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import save_component
from vqdiff.training import loop, preflight
from vqdiff.training.compilation import Compilation
from vqdiff.training.denoiser_settings import DiffusionTraining
from vqdiff.training.diffusion import train_diffusion
from vqdiff.training.loop import RunConfig, train
from vqdiff.training.validation import Criterion

RUN = RunConfig(
    steps=6, batch_size=4, learning_rate=0.01, warmup=2, log_every=1, checkpoint_every=3, precision="fp32", ema=0.9
)


class Layers(nn.Module):
    """Three layers, to tell in which of them a gradient breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Copying(nn.Module):
    """The error of y = x, which also counts its calls."""

    calls: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        return (self.network(x) - x).square().mean(), {"calls": self.calls.clone()}


class Copies:
    """Learn y = x; what was shown and whether it was compiled stays to be looked at."""

    trained = False
    data_fingerprint = "x"
    learning_rates: Mapping[str, float] = {}
    criterion = Criterion("held_out")
    legend = "calls: how often"

    def __init__(self, spoil: Callable[[int, Tensor], Tensor] = lambda step, x: x, compiled: bool = True) -> None:
        torch.manual_seed(0)
        self.model = Layers()
        self.objective, self.spoil = Copying(self.model), spoil
        self.compiled = self.model if compiled else None

    def batch(self, step: int, share: slice) -> dict[str, Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return {"x": self.spoil(step, x)[share]}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"held_out": 0.0}

    def upkeep(self, model: nn.Module) -> tuple[float, float]:
        return 0.0, 0.0

    def preview(self, model: nn.Module, path: Path) -> None:
        path.write_text("a picture", encoding="utf-8")

    def save(self, model: nn.Module, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "finished.pt")


class Spoilt(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


Compiled = Callable[..., Any]
Compiler = Callable[[torch.fx.GraphModule, Any], Compiled]


class MiddleLayer(torch.fx.Interpreter):
    """Runs the layers with a wrong gradient from the middle one on."""

    def __init__(self, graph: torch.fx.GraphModule, factor: float) -> None:
        super().__init__(graph)
        self.factor, self.layers = factor, 0

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.target == "tanh":
            self.layers += 1
        return Spoilt.apply(value, self.factor) if n.target == "tanh" and self.layers == 2 else value


def spoilt_gradient(factor: float, above: float = 0) -> Compiler:
    """Compile so, and the fault shows where values are above a size."""

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Compiled:
        del inputs

        def call(*values: Tensor) -> Any:
            largest = max(float(value.detach().abs().max()) for value in values)
            return MiddleLayer(graph, factor if largest > above else 1.0).run(*values)

        return call

    return compiler


def spoilt_value(graph: torch.fx.GraphModule, inputs: Any) -> Compiled:
    return lambda *values: [value * 1.1 for value in graph(*values)]


def raising(graph: torch.fx.GraphModule, inputs: Any) -> Compiled:
    raise RuntimeError("C++ compile error\n\nCommand:\ng++\n\nOutput:\nmain.cpp:1:2: error: no room\nmore")


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> dict[Compilation, Compiler]:
    """What compiles in each way: nothing at all, unless a test puts something else here."""
    made = dict[Compilation, Compiler]()
    apply = Compilation.apply

    def faulty(self: Compilation, part: nn.Module) -> None:
        if self is Compilation.NONE:
            apply(self, part)
        else:
            part.compile(backend=made.get(self, lambda graph, inputs: graph))

    monkeypatch.setattr(Compilation, "apply", faulty)
    torch.compiler.reset()
    return made


def records(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = ("pictures_per_s", "share_of_matmul_peak")
    return [{name: value for name, value in one.items() if name not in measured} for one in found]


FAULTS = {
    "no number": (spoilt_gradient(torch.nan), "network.layers.1.bias (and of 3 of 6 parts that depend on it)"),
    "gradient": (spoilt_gradient(1.5), "the gradient of network.layers.1.bias differs by 50% from the uncompiled one"),
    "loss": (spoilt_value, "the loss is"),
    "compiler": (raising, "the step fails (RuntimeError: main.cpp:1:2: error: no room)"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wrong", [1, 2])
def test_a_run_goes_on_with_what_is_right(
    fault: str, wrong: int, compilers: dict[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(lambda: Copies(compiled=False), RUN, tmp_path / "eager", resume=False)
    call, words = FAULTS[fault]
    compilers.update(dict.fromkeys([Compilation.WIDEST, Compilation.NARROW][:wrong], call))
    capsys.readouterr()
    train(Copies, RUN, tmp_path / "run", resume=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if "continuing" in line]
    assert len(lines) == wrong
    assert all(words in line for line in lines)
    assert lines[0].startswith("compiled, ")
    assert lines[0].endswith("continuing compiled for vectors of 256 bits")
    assert lines[-1].endswith(["continuing compiled for vectors of 256 bits", "continuing uncompiled"][wrong - 1])
    assert records(tmp_path / "run") == records(tmp_path / "eager")


def test_what_is_right_is_used_without_a_word(
    compilers: dict[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = list[bool]()

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Compiled:
        def call(*values: Tensor) -> Any:
            used.append(True)
            return graph(*values)

        return call

    compilers[Compilation.WIDEST] = compiler
    train(Copies, RUN, tmp_path, resume=False)
    assert "continuing" not in capsys.readouterr().out
    assert len(used) == 2 + RUN.steps  # compared, timed, and in every step
    assert records(tmp_path)[0]["calls"] == 1  # what came before changed nothing


def test_a_short_run_is_compiled_only_if_that_pays_back(
    compilers: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Copies, RUN, tmp_path / "short", resume=False, compile="auto")
    assert "not compiled, as all steps take about 0 s without it" in capsys.readouterr().out
    monkeypatch.setattr(preflight, "_COMPILING", 0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    compilers[Compilation.WIDEST] = lambda graph, inputs: time.sleep(0.1) or graph
    train(Copies, RUN, tmp_path / "long", resume=False, compile="auto")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "compiling, usually 1–2 minutes …"
    assert any(line.startswith("compiling: ") and line.endswith(" s so far") for line in lines)
    assert any(line.startswith("compiled after ") for line in lines)
    assert records(tmp_path / "short") == records(tmp_path / "long")


class Compiling(Layers):
    """Layers that record how they are to be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.options = list[Any]()

    def compile(self, *, options: dict[str, Any] | None = None) -> None:
        self.options.append(options)


def test_a_vector_width_is_requested_from_inductor() -> None:
    part = Compiling()
    Compilation.WIDEST.apply(part)
    Compilation.NARROW.apply(part)
    assert part.options == [None, {"cpp.simdlen": 256}]
    assert "cpp.simdlen" in torch._inductor.list_options()
    assert Compilation.NARROW not in Compilation.on(torch.device("cuda"))


def nan_in_data(step: int, x: Tensor) -> Tensor:
    return torch.cat([x[:3], x[3:] * torch.nan]) if step == 4 else x


def test_broken_data_are_named(compilers: dict[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step 4: 'x' of the batch is not finite in 1 of 4 rows: repair the data"):
        train(lambda: Copies(nan_in_data), RUN, tmp_path, resume=False)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    broken = torch.load(tmp_path / "broken.pt", weights_only=True)
    assert broken["step"] == 4
    assert broken["weights"]["calls"] == 4
    train(Copies, RUN, tmp_path / "whole", resume=False)
    train(Copies, RUN, tmp_path, resume=True)
    assert records(tmp_path) == records(tmp_path / "whole")


def large_at_four(step: int, x: Tensor) -> Tensor:
    return x * 1e3 if step == 4 else x


def test_a_gradient_that_breaks_only_compiled_is_reported(compilers: dict[Any, Any], tmp_path: Path) -> None:
    """Late: the preflight met no such values."""
    compilers[Compilation.WIDEST] = spoilt_gradient(torch.nan, above=100)
    found = r"step 4: the gradient of network\.layers\.1\.bias \(and of 3 of 6 parts .*\) is not finite compiled, "
    with pytest.raises(InputError, match=found + r"but is uncompiled: set compile = false.*last\.pt"):
        train(lambda: Copies(large_at_four), RUN, tmp_path, resume=False)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    train(lambda: Copies(large_at_four, compiled=False), RUN, tmp_path, resume=True)
    train(lambda: Copies(large_at_four, compiled=False), RUN, tmp_path / "whole", resume=False)
    assert records(tmp_path) == records(tmp_path / "whole")


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_not_finite_either_way_blames_the_learning_rate(
    compiled: bool, compilers: dict[Any, Any], tmp_path: Path
) -> None:
    def huge(step: int, x: Tensor) -> Tensor:
        return x * 1e30 if step == 1 else x

    how = "compiled or not" if compiled else "uncompiled"
    then = r"lower run\.learning_rate, and start again"  # nothing was saved yet
    with pytest.raises(InputError, match=rf"step 1: the loss is not finite, {how}: {then}"):
        train(lambda: Copies(huge, compiled), RUN, tmp_path, resume=False)
    assert not (tmp_path / "last.pt").exists()


def test_what_cannot_be_compared_is_not_compiled(
    compilers: dict[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="step 0: the loss is not finite, uncompiled"):
        train(lambda: Copies(lambda step, x: x * 1e30), RUN, tmp_path, resume=False)
    assert "the loss is not finite: continuing uncompiled" in capsys.readouterr().out


def test_broken_weights_are_named(compilers: dict[Any, Any], tmp_path: Path) -> None:
    def broken() -> Copies:
        task = Copies()
        task.model.layers[1].weight.data[0, 0] = torch.nan
        return task

    with pytest.raises(InputError, match=r"step 0: network\.layers\.1\.weight itself is not finite"):
        train(broken, RUN, tmp_path, resume=False)


CLASSES = """
data = "OUT/pictures"
output = "OUT/run"
image_tokenizer = "OUT/tokenizer"
condition = "class"
evaluate = 4
[model]
width = 16
depth = 1
heads = 2
patch_size = 1
token_width = 16
[sampling]
steps = 2
[run]
steps = 5
batch_size = 8
learning_rate = 3e-3
warmup = 2
precision = "fp32"
log_every = 1
preview_every = 5
"""


@pytest.mark.timeout(1500)  # C++ compilers are slow where the cores are shared
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="needs a C++ compiler")
def test_compiled_and_uncompiled_runs_agree(tmp_path: Path) -> None:
    """By Inductor itself, in processes whose functions no checks of shapes stand in the way of."""
    random = np.random.default_rng(0)
    for name in "blue", "red":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    save_component(
        CompactTokenizer(CompactConfig(8, (8, 8), (0, 0), (0, 0), num_codes=16, code_dim=4)), tmp_path / "tokenizer"
    )
    (tmp_path / "config.toml").write_text(CLASSES.replace("OUT", str(tmp_path)))
    for compiled in "true", "false":
        changes = [f"compile={compiled}", f"output={tmp_path / compiled}"]
        config = read_config(DiffusionTraining, tmp_path / "config.toml", changes)
        assert exit_codes([started(_train, config)], 1400) == [0]
    ways = [(tmp_path / name / "way").read_text() for name in ("true", "false")]
    assert ways[0].startswith("compiled")
    assert ways[1] == "uncompiled"
    compiled, eager = ([one["loss"] for one in records(tmp_path / name) if "loss" in one] for name in ("true", "false"))
    assert len(eager) == 5
    assert compiled == pytest.approx(eager, rel=1e-4)


def _train(config: DiffusionTraining) -> None:
    _note_the_way(config.output)
    train_diffusion(config)


def _note_the_way(output: Path) -> None:
    """Let a run write down how it computes."""
    preflight = loop.preflight

    def noted(*arguments: Any) -> Any:
        plan = preflight(*arguments)
        output.mkdir(exist_ok=True)
        (output / "way").write_text(plan.compilation.value)
        return plan

    loop.preflight = noted


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
def test_processes_go_on_alike(shard: bool, tmp_path: Path) -> None:
    """One of them cannot compile for the widest vectors, and has a gradient that is no number from the next."""
    train(lambda: Copies(compiled=False), RUN, tmp_path / "one", resume=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [started(_train_together, tmp_path / "two", shard, rank, port) for rank in range(2)]
    assert exit_codes(children, 500) == [0, 0]
    one, two = ([record["loss"] for record in records(tmp_path / name) if "loss" in record] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)
    if not shard:  # what FSDP has a hook on, Dynamo leaves alone: nothing was compiled that could be wrong
        assert (tmp_path / "two" / "way").read_text() == "uncompiled"


def _train_together(output: Path, shard: bool, rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    apply = Compilation.apply
    first, second = (raising, spoilt_gradient(torch.nan)) if rank == 1 else (lambda graph, inputs: graph,) * 2

    def faulty(self: Compilation, part: nn.Module) -> None:
        if self is Compilation.NONE:
            apply(self, part)
        else:
            part.compile(backend=first if self is Compilation.WIDEST else second)

    Compilation.apply = faulty
    _note_the_way(output)
    train(Copies, replace(RUN, shard=shard), output, resume=False)
