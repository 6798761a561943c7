"""The Hugging Face Hub: a model is pushed and loaded by the Hub's own client, through a server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import vqdiff
from bundled_model import bundled_pipeline
from toy_pipelines import CODES, TIMES, toy_pipeline
from vqdiff.cli import main
from vqdiff.denoisers import ModernConfig, ModernDenoiser
from vqdiff.foundation.errors import InputError
from vqdiff.model import Card, Model
from vqdiff.model.hub import check_push
from vqdiff.model.hub_page import samples_of
from vqdiff.pipeline import Pipeline
from vqdiff.text import Blend, NullCondition, read_text_encoder

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of `hub_session`."""
    folder = tmp_path_factory.mktemp("hub")
    paths = os.pathsep.join([str(HELPERS), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HELPERS / "hub_session.py"), str(folder)]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_dry_run_asks_nobody_and_writes_what_is_pushed(found: dict[str, Any]) -> None:
    assert found["calls of a dry run"] == []
    assert found["as the dry run"] == dict.fromkeys(set(found["files"]) - {".gitattributes"}, True)


def test_what_is_pushed(found: dict[str, Any]) -> None:
    """The parts, half as large where that changes no weight; no other file of the folder, such as its log."""
    parts = {
        f"{part}/{name}" for part in ("denoiser", "image_tokenizer") for name in ("config.json", "model.safetensors")
    }
    assert set(found["files"]) == {".gitattributes", "README.md", "model_index.json", "samples.png", *parts}
    assert found["uploads"] == 3  # by LFS: two weights and the samples
    toy = toy_pipeline().model.denoiser
    assert found["files"]["denoiser/model.safetensors"] < 3 * sum(value.numel() for value in toy.parameters())
    assert found["private"]


def test_what_is_loaded_is_what_was_pushed(found: dict[str, Any]) -> None:
    assert len(found["tokens"]) == 64
    assert found["tokens from the Hub"] == found["tokens"]
    assert len(set(found["hashes"])) == 1


def test_a_branch_is_made_and_loaded(found: dict[str, Any]) -> None:
    assert "/ann/toy/commit/" in found["commit"]
    assert found["revision"] == "ClassicDenoiser"
    assert found["main is unchanged"]
    assert found["tokens of the revision"]
    assert found["cached"]


def test_a_push_removes_parts_of_an_earlier_model_only(found: dict[str, Any]) -> None:
    assert "null_condition/config.json" not in found["left in next"]
    assert "LICENSES.md" not in found["left in next"]
    assert "notes.txt" in found["left in next"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("wrong token.push", "cannot push to ann/toy: the token is wrong: log in"),
        ("wrong token.load", "the token is wrong: log in"),
        ("read only", "use one with the permission to write"),
        ("unknown", "no such repository"),
        ("no such revision", "no such repository or revision"),
        ("down.push", "cannot push to ann/toy: no connection"),
        ("down.load", "cannot download ann/toy from the Hub"),
    ],
)
def test_what_fails_is_one_line(found: dict[str, Any], case: str, says: str) -> None:
    message: Any = found
    for key in case.split("."):
        message = message[key]
    assert says in message
    assert not message.startswith("no error")


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model of text, with all that a card may say, as it would be pushed."""
    folder = tmp_path_factory.mktemp("described")
    toy, whole = toy_pipeline("unconditional").model, bundled_pipeline("float32").model
    encoder = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"
    shutil.copytree(encoder, folder / "encoder")
    (folder / "encoder" / "optimizer.pt").write_bytes(b"moments")
    (folder / "encoder" / "trainer_state.json").write_text("{}")
    settings = json.loads((folder / "encoder" / "config.json").read_text())
    (folder / "encoder" / "config.json").write_text(json.dumps({**settings, "_name_or_path": "/home/ann/secret/mini"}))
    text_encoder = read_text_encoder(folder / "encoder", 32)
    card = Card(
        "toys",
        {"drawings": "CC-BY-4.0 (Ann)", "captions": "MIT, with thanks", "weights": "my own terms"},
        "Drawings in /data/ann/private/toys and at https://example.org/a/b/toys.",
        {"psnr": 20.5, "test": {"hash": "0123abcd", "scores": {"fd": {"mean": 4.5, "std": 0.1, "n": 3}}}, "by": "Ann"},
        {"denoiser": "/home/ann/runs/first/model.pth: ema", "image_tokenizer": "C:\\Users\\ann\\codec.pth"},
        ("read from ~/runs/old/file.pth and either/or",),
        ("ann/toys",),
        "It draws toys alone.",
        ("a red ball", "a kite"),
    )
    denoiser = ModernDenoiser(ModernConfig(CODES, TIMES, 8, 16, 1, 2, token_width=8, text_width=text_encoder.width))
    null = NullCondition.of("learnable", text_encoder)
    parts = (toy.schedule, denoiser.eval().requires_grad_(False), toy.image_tokenizer, text_encoder, null, toy.sampling)
    del whole
    Pipeline(Model(*parts, card)).save_for_hub(folder / "out", "ann/toys")
    return folder / "out"


def test_the_hub_s_own_reader_understands_the_metadata(described: Path) -> None:
    data = huggingface_hub.ModelCard.load(described / "README.md").data
    shown = data.to_dict()
    assert [shown[name] for name in ("library_name", "pipeline_tag", "datasets")] == [
        "vqdiff",
        "text-to-image",
        ["ann/toys"],
    ]
    assert (data.license, data.license_name) == ("other", "cc-by-4.0-and-mit-and-other")
    assert (described / data.license_link).is_file()
    assert data.eval_results is not None
    results = {one.metric_type: one for one in data.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == {"psnr": 20.5, "test.scores.fd": 4.5}
    assert results["test.scores.fd"].metric_args == {"protocol": "0123abcd"}
    assert results["psnr"].dataset_name == "ann/toys"


def test_the_page_shows_the_card(described: Path) -> None:
    text = (described / "README.md").read_text()
    assert 'vqdiff.load("ann/toys")' in text
    for part in (
        "seeds 0 to 3,",
        "`a red ball`, `a kite`",
        "It draws toys alone.",
        "| test.scores.fd | 4.5 | 0123abcd |",
    ):
        assert part in text
    for source in ("drawings | CC-BY-4.0 (Ann)", "captions | MIT, with thanks", "weights | my own terms"):
        assert source in text
        assert source in (described / "LICENSES.md").read_text()


def test_nothing_private_is_left(described: Path) -> None:
    """No local path in any text, no file that belongs to no model; what only looks like a path stays."""
    names = {path.name for path in described.rglob("*") if path.is_file()}
    assert not names & {"optimizer.pt", "trainer_state.json"}
    texts = [
        path.read_text()
        for path in described.rglob("*")
        if path.suffix in (".md", ".json") and path.name != "tokenizer.json"
    ]
    for text in texts:
        for private in ("/home", "/data", "Users", "~/", "secret", "private/toys"):
            assert private not in text
    page = (described / "README.md").read_text()
    for kept in (
        "model.pth: ema",
        "codec.pth",
        "file.pth and either/or",
        "https://example.org/a/b/toys",
        "in toys and",
    ):
        assert kept in page


def test_it_loads_and_draws(described: Path) -> None:
    assert len(vqdiff.load(described, device="cpu", precision="float32")("a kite")) == 1


def test_one_licence_is_named_as_the_hub_does(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    pipe.model.card = Card(licenses={"weights": "MIT (Ann)", "pictures": "MIT (Bob)"})
    pipe.save_for_hub(tmp_path / "out", "ann/toy")
    data = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.get("license_name")) == ("mit", None)
    assert data.pipeline_tag == "unconditional-image-generation"


def test_a_label_by_its_name_is_a_sample(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    pipe.save_for_hub(tmp_path / "out", "ann/toy", prompts=["2"])
    assert "pipe('2', seed=0)" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="not blends"):
        samples_of(pipe.model, [Blend("a", "b")])


def test_weights_are_stored_in_half_only_where_that_is_exact(tmp_path: Path) -> None:
    pipe, denoisers = toy_pipeline(), dict[str, dict[str, torch.Tensor]]()
    for name in ("float32", "bfloat16"):
        if name == "bfloat16":
            for part in (pipe.model.denoiser, pipe.model.image_tokenizer):
                part.load_state_dict({key: value.bfloat16() for key, value in part.state_dict().items()})
        pipe.save_for_hub(tmp_path / name, "ann/toy")
        loaded = vqdiff.load(tmp_path / name, precision="float32").model
        denoisers[name] = loaded.denoiser.state_dict()
        assert loaded.masked_nll == pipe.model.masked_nll != ()
        size = (tmp_path / name / "denoiser" / "model.safetensors").stat().st_size
        count = sum(value.numel() for value in pipe.model.denoiser.state_dict().values())
        assert (size > 4 * count) == (name == "float32")


# --- what is refused before any work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy", "a/b/c", "ann/toy@main", "ann/..", "/ann/toy", ""])
def test_a_name_that_cannot_be_on_the_hub(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["push", "emoji", name, "--dry-run", str(tmp_path / "out")])
    assert "give owner/name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="no token to push to ann/toy with: log in with `hf auth login`"):
        check_push("ann/toy")


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        InputError, match=r"pushing to ann/toy needs the package huggingface_hub: pip install 'vqdiff\[hub\]'"
    ):
        toy_pipeline().push_to_hub("ann/toy")


def test_samples_need_prompts(tmp_path: Path) -> None:
    pipe = Pipeline(replace(bundled_pipeline("float32").model, card=Card()))
    with pytest.raises(InputError, match="names no prompts"):
        pipe.save_for_hub(tmp_path / "out", "ann/toy")


def test_a_revision_given_twice() -> None:
    with pytest.raises(InputError, match="names a revision, and so does revision='next'"):
        Pipeline.from_pretrained("ann/toy@main", revision="next")


def test_a_local_folder_is_loaded_as_it_is(tmp_path: Path) -> None:
    toy_pipeline().save(tmp_path / "toy")
    assert Pipeline.from_pretrained(tmp_path / "toy", device="cpu").model.num_classes == 5
    with pytest.raises(InputError, match="toy is not on the Hub, so it has no revision 'any'"):
        Pipeline.from_pretrained(tmp_path / "toy", device="cpu", revision="any")
