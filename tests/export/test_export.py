"""``vqdiff export``: what it writes computes what the model computes, and what does not is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vqdiff
from golden_cases import GOLDEN
from toy_pipelines import toy_pipeline
from vqdiff.checkpoints import read_model
from vqdiff.cli import main
from vqdiff.denoisers import ModernConfig, ModernDenoiser
from vqdiff.export import FORMATS, export
from vqdiff.export.checks import check
from vqdiff.export.formats import Onnx
from vqdiff.export.storage import Stored
from vqdiff.foundation.errors import InputError
from vqdiff.model import Model
from vqdiff.text import ClipTextEncoder, NullCondition, TextEncoder
from vqdiff.text.bert import Bert, BertConfig

CLIP_AND_VQGAN = GOLDEN / "diffusers" / "pipeline"


def text_model(folder: Path) -> Model:
    """A modern model of the toy's sizes, conditioned on text, with a small BERT and the bundled model's words."""
    source = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"
    folder.mkdir()
    config = json.loads((source / "config.json").read_text()) | {"hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    description = BertConfig.of(config)
    assert description is not None
    save_file(Bert(description).state_dict(), folder / "model.safetensors")
    encoder, toy = TextEncoder(folder, 12), toy_pipeline().model
    sizes = {"width": 16, "depth": 1, "heads": 2, "token_width": 8, "text_width": 16}
    denoiser = ModernDenoiser(ModernConfig(toy.schedule.num_codes, toy.schedule.num_steps, 8, **sizes))
    for weight in denoiser.parameters():
        weight.data.normal_(0, 0.4)
    null = NullCondition.of("learnable", encoder).requires_grad_(False)
    return replace(toy, denoiser=denoiser.eval().requires_grad_(False), text_encoder=encoder, null_condition=null)


MODELS: dict[str, Callable[[Path], Model]] = {
    "modern, text": lambda folder: text_model(folder / "encoder"),
    "modern, labels": lambda folder: toy_pipeline("modern").model,
    "modern, nothing": lambda folder: toy_pipeline("unconditional").model,
    "classic, labels": lambda folder: toy_pipeline("classic").model,
    "classic, CLIP, VQGAN": lambda folder: read_model(CLIP_AND_VQGAN, {}),
}


def test_a_model_becomes_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, on the smallest model; the graphs are computed here once more, with the runtime itself."""
    import onnxruntime

    model = toy_pipeline("classic").model
    model.save(tmp_path / "model")
    main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "graphs")])
    out = capsys.readouterr().out
    assert "| denoiser | real | 8 |" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graphs", "model"]
    manifest = json.loads((tmp_path / "graphs" / "manifest.json").read_text())
    assert manifest["condition"] == {"kind": "labels", "num_classes": 5, "null": 5}
    assert manifest["graphs"].keys() == {"denoiser", "decoder"}
    assert manifest["graphs"]["denoiser"]["inputs"][0] == {
        "name": "tokens",
        "dtype": "int64",
        "shape": ["batch", 64],
    }
    assert manifest["schedule"]["gamma_bar"] == model.schedule.gamma_bar.tolist()
    assert all(one["error"] <= one["limit"] for one in manifest["checks"])
    session = onnxruntime.InferenceSession(tmp_path / "graphs" / "denoiser.onnx")
    for rows in (1, 3):
        given = {
            "tokens": torch.randint(0, 13, (rows, 64)),
            "t": torch.full((rows,), 8),
            "condition": torch.arange(rows),
        }
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in given.items()})
        wanted = model.denoiser(*given.values())
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=2e-3, rtol=0)
    with pytest.raises(SystemExit) as exit:
        main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "model"), "--batch", "0"])
    assert exit.value.code == 2
    assert "a batch of 0 rows" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_in_every_format(kind: str, to: str, tmp_path: Path) -> None:
    model = MODELS[kind](tmp_path)
    checks = export(model, tmp_path / "graphs", to=to)
    assert {one.graph for one in checks} >= {"denoiser", "decoder"}
    assert all(one.passed for one in checks)
    assert {one.rows for one in checks if one.graph == "denoiser"} == {model.schedule.num_steps}
    manifest = json.loads((tmp_path / "graphs" / "manifest.json").read_text())
    for graph in manifest["graphs"].values():
        for name, size in graph["files"].items():
            assert (tmp_path / "graphs" / name).stat().st_size == size
    if model.text_encoder is not None:
        null = np.load(tmp_path / "graphs" / manifest["condition"]["null"])
        np.testing.assert_array_equal(null, model.null(1)[0].numpy())
        assert (tmp_path / "graphs" / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("to", "storage"), [("onnx", "float16"), ("onnx", "int8"), ("openvino", "float16")])
def test_fewer_bits_make_smaller_files_of_a_fixed_batch(to: str, storage: Any, tmp_path: Path) -> None:
    model = read_model(CLIP_AND_VQGAN, {})
    assert isinstance(model.text_encoder, ClipTextEncoder)
    weights = [one for part in (model.denoiser, model.text_encoder.model) for one in part.parameters()]
    with torch.no_grad():
        for one in weights:
            one += 1e-3 * torch.randn_like(one)  # the file's are stored in 16 bits already
    checks = export(model, tmp_path / "small", to=to, storage=storage, batch=2)
    assert all(one.passed for one in checks)
    assert any(one.storage > 0 for one in checks)
    export(model, tmp_path / "large", to=to, batch=2)
    sizes = {
        folder: sum(path.stat().st_size for path in (tmp_path / folder).glob("text_encoder.*"))
        for folder in ("small", "large")
    }
    held = sum(4 * one.numel() for one in model.text_encoder.model.parameters() if one.numel() >= 1024)
    assert sizes["large"] - sizes["small"] > 0.2 * held  # and the graph gets nodes that convert


@pytest.mark.slow
def test_a_graph_refuses_features_with_weights(tmp_path: Path) -> None:
    """A column more, which the denoiser itself takes: no runtime may read it as a feature."""
    import onnxruntime

    model = text_model(tmp_path / "encoder")
    export(model, tmp_path / "graphs")
    session = onnxruntime.InferenceSession(tmp_path / "graphs" / "denoiser.onnx")
    tokens, t = torch.zeros(1, 64, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    for prompt, refused in (("a (red:2) apple", True), ("a red apple", False)):
        condition = model.encode([prompt])
        assert condition is not None
        given = {"tokens": tokens.numpy(), "t": t.numpy(), "condition": condition.numpy()}
        with pytest.raises(Exception, match=r"invalid dimensions for input: condition") if refused else nullcontext():
            session.run(["logits"], given)


# --- without tracing anything -----------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("table", torch.arange(2048), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.table[:64]


def test_stored_weights_are_rounded_and_nothing_else() -> None:
    network, x = Network().requires_grad_(False), torch.randn(5, 64)
    assert torch.equal(Stored(network, "float32")(x), network(x))
    rounded = nn.functional.linear(x, network.linear.weight.half().float(), network.linear.bias) + network.table[:64]
    assert torch.equal(Stored(network, "float16")(x), rounded)
    stored = Stored(network, "int8")
    assert sum(value.nbytes for value in stored.state_dict().values()) == 64 * 64 + 64 * 4 + 64 * 4 + 2048 * 8
    step = network.linear.weight.abs().amax(1) / 127
    effect = (stored(x) - network(x)).abs()
    assert 0 < effect.max() <= (step / 2 * x.abs().sum(1, keepdim=True) * 1.01).max()


@pytest.mark.parametrize("batch", [None, 3])
def test_a_check_sees_every_row_and_a_wrong_number(batch: int | None) -> None:
    rows, sizes, seen = (torch.arange(20.0).view(10, 2),), list[int](), set[float]()

    def compute(inputs: tuple[Tensor, ...]) -> Tensor:
        sizes.append(len(inputs[0]))
        seen.update(inputs[0][:, 0].tolist())
        return inputs[0] + 1.0 * (inputs[0] == 13)

    def exact(inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0]

    found = check(("g", "random"), rows, compute, exact, exact, batch=batch, storage="float32")
    assert found.error == 1
    assert not found.passed
    assert len(seen) == 10
    assert set(sizes) == ({3} if batch else {1, 2, 5})
    assert check(("g", "random"), rows, exact, exact, exact, batch=batch, storage="float32").passed
    broken = check(("g", "random"), rows, lambda x: x[0] * torch.nan, exact, exact, batch=batch, storage="float32")
    assert not broken.passed
    coarse = check(("g", "random"), rows, exact, exact, lambda x: x[0] * 1.1, batch=batch, storage="float16")
    assert not coarse.passed


class Wrong(Onnx):
    """Writes an empty file, and computes what it is told to."""

    def __init__(self, answer: Callable[..., Tensor]) -> None:
        self.answer = answer

    def write(self, program: Any, graph: Any, batch: Any, path: Path) -> None:
        path.write_bytes(b"")

    def open(self, path: Path, threads: int) -> Any:
        return self.answer


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("vqdiff.export.folder.trace", lambda *_: None)
    return monkeypatch


def test_an_inexact_graph_is_refused_and_nothing_is_written(untraced: pytest.MonkeyPatch, tmp_path: Path) -> None:
    untraced.setitem(FORMATS, "onnx", Wrong(lambda inputs: torch.zeros(len(inputs[0]), 64, 12)))
    lines = list[str]()
    with pytest.raises(InputError, match="the graph denoiser differs from PyTorch on random inputs"):
        export(toy_pipeline("unconditional").model, tmp_path / "graphs", say=lines.append)
    assert "| denoiser | random | 8 |" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(untraced: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(inputs: Any) -> Tensor:
        raise KeyboardInterrupt

    untraced.setitem(FORMATS, "onnx", Wrong(interrupted))
    with pytest.raises(KeyboardInterrupt):
        export(toy_pipeline("unconditional").model, tmp_path / "graphs")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = toy_pipeline("unconditional").model
    with pytest.raises(InputError, match="did you mean 'onnx'"):
        export(model, tmp_path / "a", to="onxn")
    with pytest.raises(InputError, match="int8"):
        export(model, tmp_path / "a", to="openvino", storage="int8")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        export(model, tmp_path / "file")
    monkeypatch.setattr(Onnx, "packages", ("onnx_of_the_future",))
    with pytest.raises(InputError, match=r"pip install 'vqdiff\[export\]'"):
        export(model, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
