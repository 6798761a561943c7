"""The page about extensions works as it stands, and what is registered is found from everywhere."""

from __future__ import annotations

import importlib
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vqdiff
from bundled_model import bundled_pipeline
from vqdiff import plugins
from vqdiff.cli import main
from vqdiff.data import load
from vqdiff.denoisers import ClassicDenoiser, ModernDenoiser
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.registry import Registry
from vqdiff.image_tokenizers import VQGAN, AbsentTokenizer, CompactTokenizer, FiniteScalarQuantizer, VectorQuantizer
from vqdiff.interfaces import Denoiser, ImageTokenizer, Quantizer, TextEncoder
from vqdiff.sampling import Reveal, get_sampler, samplers

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
REGISTRIES = [getattr(plugins, name) for name in plugins.__all__]
PLUGIN = '''
from dataclasses import dataclass
from vqdiff.sampling import Reveal, SamplerFacts
from vqdiff.sampling.orders import by_random

@dataclass(frozen=True)
class Mine(Reveal):
    """A sampler from elsewhere."""

mine = Mine(by_random)
cited = Mine(by_random, sharpened=True, facts=SamplerFacts("a sampler with a paper", "2101.00001", "T", "yes"))

def backwards(purity, u):
    """From the last to the first."""
    return purity.new_tensor(range(purity.shape[1])).expand_as(purity)

def steep(r, p):
    """Reveal half of the tokens in the first step."""
    return (1 - r) / 2 + (r == 0) / 2

def late(done):
    """Away from the network without its middle layers, in the last quarter alone."""
    return "null" if done < 0.75 else "skipped-layers"
'''
ENTRY_POINTS = """
[vqdiff.samplers]
mine = elsewhere:mine
cited = elsewhere:cited
broken = not_there:broken
[vqdiff.orders]
backwards = elsewhere:backwards
[vqdiff.curves]
steep = elsewhere:steep
[vqdiff.guides]
late = elsewhere:late
"""
FOUND = """
from fastapi.testclient import TestClient
from vqdiff.serving.api import create_app
from vqdiff.serving.engine import Engine
import vqdiff

pipe, engine = vqdiff.load(device="cpu", precision="float32"), Engine()
with TestClient(create_app({"emoji": pipe}, engine), "http://localhost") as client:
    print(json.dumps(client.get("/api/models").json()["samplers"]))
    for sampler in ("backwards", "nowhere"):
        wanted = {"prompt": "cat", "steps": 1, "sampler": sampler, "curve": "steep", "guide": "late"}
        print(client.post("/api/draw", json=wanted).status_code)
engine.stop()
"""


@pytest.fixture
def restored() -> Iterator[None]:
    """Registries as they were before the test."""
    kept = [(vars(registry)["_things"].copy(), vars(registry)["_descriptions"].copy()) for registry in REGISTRIES]
    yield
    for registry, (things, descriptions) in zip(REGISTRIES, kept, strict=True):
        vars(registry)["_things"], vars(registry)["_descriptions"] = things, descriptions


@pytest.mark.usefixtures("restored")
def test_the_page_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 9
    Path("extensions.py").write_text("\n".join(blocks[1:]), "utf-8")  # the first shows a line of the others
    monkeypatch.syspath_prepend(tmp_path)
    names = vars(importlib.import_module("extensions"))

    assert {"top-down", "most-likely"} <= samplers().keys()
    assert names["halves"](torch.tensor([0.0, 0.5, 1.0]), 1.0).tolist() == [1.0, 0.75, 0.0]
    assert samplers()["top-down"] == "Row by row from the top."
    assert isinstance(names["Signs"](3), Quantizer)
    tokens = names["Signs"](3).encode(names["Signs"](3).decode(torch.arange(8)))
    assert tokens.tolist() == list(range(8))
    assert isinstance(names["tokenizer"], ImageTokenizer)
    assert isinstance(names["denoiser"], Denoiser)
    assert [one.tobytes() for one in names["again"]] == [one.tobytes() for one in names["images"]]
    main(["info", "unigram"])
    assert "denoiser: Unigram\n" in capsys.readouterr().out
    index = json.loads(Path("unigram", "model_index.json").read_text(encoding="utf-8"))
    assert index["components"] == {"denoiser": "Unigram", "image_tokenizer": "GreyTokenizer"}

    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    with sqlite3.connect("images.db") as database:
        database.execute("CREATE TABLE images (name, file, caption)")
        database.executemany("INSERT INTO images VALUES (?, ?, 'red')", [(str(i), file.getvalue()) for i in range(4)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = load("sqlite:images.db", "train", 16)
    assert len(found) == 4
    assert found.captions[0] == ["red"]


def test_an_installed_package_is_found_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(PLUGIN)
    folder = tmp_path / "elsewhere-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    program = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
from vqdiff.cli import main
main(["samplers"])
print("---")
main(["generate", "--help"])
print("---")
main(["samplers", "--json"])
wanted = ["--sampler", "mine", "--curve", "steep", "--guide", "late", "--steps", "2"]
main(["generate", "a red apple", *wanted, "--json", "-o", {str(tmp_path / "out.png")!r}])
{FOUND}
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    table, shown, rest = run.stdout.split("---\n")
    listed, image, served, *codes = map(json.loads, rest.splitlines())
    own = {"paper": "", "calls": "steps", "exact": "one token per call", "uses": None}
    assert listed["samplers"]["mine"] == {"idea": "A sampler from elsewhere."} | own
    assert listed["samplers"]["cited"] == {
        "idea": "a sampler with a paper", "paper": "2101.00001", "calls": "T", "exact": "yes", "uses": None,
    }  # fmt: skip
    assert listed["samplers"]["backwards"] == {"idea": "From the last to the first."} | own
    assert listed["orders"]["backwards"] == "From the last to the first."
    assert listed["curves"]["steep"] == "Reveal half of the tokens in the first step."
    assert listed["guides"]["late"] == "Away from the network without its middle layers, in the last quarter alone."
    assert "No module" in listed["samplers"]["broken"]["idea"]
    rows = [line.split("  ")[0] for line in table.splitlines()]
    assert {*(name for kind in listed.values() for name in kind), "sampler", "order", "curve", "guide"} <= set(rows)
    assert any(
        line.split() == [*["cited", "a", "sampler", "with", "a", "paper", "2101.00001", "T", "yes"]]
        for line in table.splitlines()
    )
    assert (image["sampler"], image["curve"], image["guide"]) == ("mine", "steep", "late")
    assert {"mine", "cited", "backwards", "broken"} <= served.keys()
    assert codes == [200, 400]
    shown = " ".join(shown.replace("│", " ").split())
    installed = ["backwards, broken, cited, mine", "steep", "late"]  # of samplers and orders, curves, guides
    assert all(f"Of other packages: {names}." in shown for names in installed)


def test_our_own_keep_the_contracts() -> None:
    pipe = vqdiff.load(device="cpu", precision="float32")
    assert isinstance(pipe.model.denoiser, Denoiser)
    assert isinstance(pipe.model.image_tokenizer, ImageTokenizer)
    assert isinstance(pipe.model.text_encoder, TextEncoder)
    assert isinstance(VectorQuantizer(4, 2), Quantizer)
    assert isinstance(FiniteScalarQuantizer((3, 3)), Quantizer)
    assert [plugins.DENOISERS.get(one.__name__) for one in (ClassicDenoiser, ModernDenoiser)] == [
        ClassicDenoiser,
        ModernDenoiser,
    ]
    kinds = CompactTokenizer, VQGAN, AbsentTokenizer
    assert [plugins.IMAGE_TOKENIZERS.get(one.__name__) for one in kinds] == list(kinds)


@pytest.mark.usefixtures("restored")
def test_a_sampler_is_given_by_name_or_as_it_is() -> None:
    settings = vqdiff.load(device="cpu").model.sampling
    assert settings.changed(sampler=get_sampler("halton")).sampler == "halton"
    other = type(get_sampler("strided"))(every=True)
    assert settings.changed(sampler=other).sampler == "ancestral"
    with pytest.raises(InputError, match="register this sampler"):
        settings.changed(sampler=object())


@pytest.mark.usefixtures("restored")
def test_mistakes_of_extensions_are_one_line() -> None:
    """A class in place of an object, integer scores of one row, a setting that does not exist."""
    with pytest.raises(InputError, match=r"is a class: register an object of it, Reveal\(…\)"):
        plugins.SAMPLERS.register("mine", Reveal)  # type: ignore[arg-type]
    plugins.ORDERS.register("backwards", lambda purity, u: torch.arange(purity.shape[1]))
    pipe = bundled_pipeline("float32")
    assert pipe("a red apple", sampler="backwards", steps=2)
    with pytest.raises(InputError, match="unknown setting 'stesp': did you mean 'steps'"):
        pipe("a red apple", stesp=3)  # type: ignore[call-arg]


def test_an_extension_that_cannot_be_imported_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[vqdiff.broken]\nmine = not_there:mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry("thing", "vqdiff.broken", home="vqdiff.foundation.errors")
    registry.register("one", 1, "the first")
    with pytest.raises(InputError, match="the thing 'mine' of an installed package, not_there:mine, fails: No module"):
        registry.get("mine")
    assert registry.descriptions()["one"] == "the first"
    assert "No module" in registry.descriptions()["mine"]


def test_a_registry_names_what_it_does_not_know_and_gives_no_name_twice() -> None:
    registry: Registry[Any] = Registry("thing", "vqdiff.nothing", home="vqdiff.foundation.errors")
    registry.register("one", 1, "the first")
    assert registry.register("one", 1) == 1
    with pytest.raises(InputError, match="already a thing named 'one'"):
        registry.register("one", 2)
    with pytest.raises(InputError, match="unknown thing 'ome': did you mean 'one'"):
        registry.get("ome")
    assert registry.names() == ["one"]
    assert registry.name_of(1) == "one"
