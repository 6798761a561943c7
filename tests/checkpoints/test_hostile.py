"""Files that are broken, or made to break: one clear line each, nothing runs, no damage goes unnoticed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from golden_cases import GOLDEN, load
from vqdiff.checkpoints import diffusers, kind_of, read, read_model
from vqdiff.checkpoints.archive import read_table, read_weights
from vqdiff.checkpoints.clip import read_clip, text_model
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import read_json

SMALL = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.arange(3), "b": torch.ones(2, dtype=torch.float16)}
PIPELINE = GOLDEN / "diffusers" / "pipeline"


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read_bytes(content: bytes, suffix: str = ".pth", reader: Callable[[Path], Any] = read_weights) -> Any:
    """What `reader` makes of these bytes; None if it refuses them, which takes exactly one line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"file{suffix}"
        file.write_bytes(content)
        found = one_line_or_fine(reader, file)
        return {key: value.clone() for key, value in found.items()} if isinstance(found, dict) else found


def one_line_or_fine(reader: Callable[[Path], Any], file: Path) -> Any:
    try:
        return reader(file)
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


def read_part(part: str) -> dict[str, Tensor]:
    return read_weights(diffusers.weight_files(PIPELINE / part)[0])


def intact(found: dict[str, Tensor] | None) -> bool:
    return found is not None and found.keys() == SMALL.keys() and all(torch.equal(found[k], SMALL[k]) for k in SMALL)


ZIPPED, LEGACY = saved({"model": SMALL}), saved(SMALL, _use_new_zipfile_serialization=False)
TABLE = saved(torch.arange(50) % 22)


def flip(content: bytes, where: int, bits: int) -> bytes:
    changed = bytearray(content)
    changed[where % len(content)] ^= bits
    return bytes(changed)


FLIPS = st.tuples(st.integers(0, 1 << 20), st.integers(1, 255))


@given(FLIPS)
@settings(max_examples=60)
def test_a_flipped_byte_is_noticed_or_harmless(flipped: tuple[int, int]) -> None:
    """Anywhere in the archive; what is not covered by a checksum (dates, padding) does not change a tensor."""

    def model(path: Path) -> dict[str, Tensor]:
        return read_weights(path)["model"]

    found = read_bytes(flip(ZIPPED, *flipped), reader=model)
    assert found is None or intact(found)


@given(FLIPS)
@settings(max_examples=60)
def test_a_flipped_byte_in_a_mapping_table(flipped: tuple[int, int]) -> None:
    found = read_bytes(flip(TABLE, *flipped), ".pt", read_table)
    assert found is None or torch.equal(found, torch.arange(50) % 22)


@given(st.integers(0, 1 << 20), st.sampled_from([ZIPPED, LEGACY, TABLE]))
@settings(max_examples=60)
def test_a_file_cut_anywhere_is_refused(length: int, content: bytes) -> None:
    assert read_bytes(content[: length % len(content)]) is None


@given(st.binary(max_size=200), st.sampled_from([".pth", ".pt", ".bin", ".safetensors"]))
@settings(max_examples=60)
def test_any_bytes_are_refused(content: bytes, suffix: str) -> None:
    assert read_bytes(content, suffix) is None
    assert read_bytes(b"\x80\x02" + content, suffix) is None  # as a pickle begins
    assert read_bytes(b"PK\x03\x04" + content, suffix) is None  # as an archive does


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "X9"]) | JSON,
        "shape": st.lists(st.integers(-2, 1 << 63), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-8, 1 << 63), max_size=3) | JSON,
    },
)


@given(st.dictionaries(st.text(max_size=8), ENTRY | JSON, max_size=3), st.integers(-20, 20), st.binary(max_size=64))
@settings(max_examples=60)
def test_safetensors_headers(header: dict[str, Any], off: int, data: bytes) -> None:
    content = json.dumps(header).encode()
    read_bytes(struct.pack("<Q", max(len(content) + off, 0)) + content + data, ".safetensors")
    read_bytes(struct.pack("<Q", len(content)) + content + data, ".safetensors")


CONFIG = diffusers.denoiser_config(PIPELINE / "transformer" / "config.json", read_part("transformer"))
READERS: dict[str, Callable[[Path], object]] = {
    "transformer/config.json": lambda file: diffusers.denoiser_config(file, read_part("transformer")),
    "vqvae/config.json": lambda file: diffusers.codec_config(file, read_part("vqvae"), CONFIG),
    "scheduler/scheduler_config.json": lambda file: diffusers.schedule_of(file, CONFIG),
    "text_encoder/config.json": lambda file: text_model(read_json(file), read_part("text_encoder"), shapes_only=True),
    "model_index.json": lambda file: kind_of(file.parent),
}


@pytest.mark.parametrize("part", READERS)
def test_configurations_of_diffusers(part: str, tmp_path: Path) -> None:
    """Any value for any key is refused in one line, or makes no difference that breaks."""
    original = json.loads((PIPELINE / part).read_text())
    file = tmp_path / Path(part).name

    @given(st.sampled_from(sorted(original)), JSON | st.sampled_from([0, 1, 2, 18, 19, 1 << 31, [32], [32, 32]]))
    @settings(max_examples=60)
    def check(key: str, value: object) -> None:
        file.write_text(json.dumps(original | {key: value}))
        one_line_or_fine(READERS[part], file)

    check()


# --- old and odd formats ----------------------------------------------------------------------------------------------


def test_a_pickle_of_before_torch_1_6() -> None:
    assert intact(read_bytes(LEGACY))


class Opener:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("PWNED", "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("inside", [lambda x: x, lambda x: {"model": x}, lambda x: {"state_dict": {"a": [x]}}])
def test_pickles_that_would_run_code(
    protocol: int, inside: Callable[[object], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = inside(Opener())
    plain = pickle.dumps(hostile, protocol=protocol)
    zipped = saved(hostile, pickle_protocol=max(protocol, 2))
    legacy = saved(hostile, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=False)
    for content in (plain, zipped, legacy):
        assert read_bytes(content) is None
        assert read_bytes(content, ".pt", read_table) is None
    assert not list(tmp_path.iterdir())


def test_a_mapping_table_that_would_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="rejected"):
        read_table(GOLDEN / "checkpoints" / "malicious" / "shell_mapping.pt")
    assert not list(tmp_path.iterdir())


def test_a_packed_archive_is_no_bomb() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert read_bytes(buffer.getvalue()) is None


class Script(nn.Module):
    """Modules nested as the dots in the names say, which is all that a TorchScript file of CLIP is here."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            if "." not in name:
                setattr(self, name, nn.Parameter(value, requires_grad=False))
        for head in {name.split(".")[0] for name in state if "." in name}:
            part = {
                name.removeprefix(f"{head}."): value for name, value in state.items() if name.startswith(f"{head}.")
            }
            setattr(self, head, Script(part))

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_clip_is_read_out_of_its_script(tmp_path: Path) -> None:
    data = load("clip_text_tower")
    state = {name.removeprefix("sd/"): value for name, value in data.items() if name.startswith("sd/")}
    torch.jit.script(Script(state)).save(str(tmp_path / "ViT.pt"))  # type: ignore[union-attr]
    found = read_weights(tmp_path / "ViT.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    encoder = read_clip(found)
    assert torch.allclose(encoder.encode_ids(data["in/ids"]), data["exp/hidden_fp32"], rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_clip_in_place_of_the_one_inside(tmp_path: Path) -> None:
    file = GOLDEN / "checkpoints" / "text_learnable_null.pth"
    prefix = "transformer.condition_emb."
    state = {k.removeprefix(prefix): v.float() for k, v in read_weights(file)["model"].items() if k.startswith(prefix)}
    torch.jit.script(Script(state)).save(str(tmp_path / "ViT.pt"))  # type: ignore[union-attr]
    model = read_model(file, {"text_encoder": tmp_path / "ViT.pt", "heads": 2})
    assert model.card.origin["text_encoder"] == "ViT.pt"
    assert model.text_encoder is not None
    words: Any = model.text_encoder.model
    assert torch.equal(words.get_input_embeddings().weight, state["token_embedding.weight"])


def test_named_tensors_only(tmp_path: Path) -> None:
    for content in ([1, 2], torch.zeros(3), {3: torch.zeros(3)}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(InputError, match="not named weights"):
            read_weights(tmp_path / "x.pth")
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no denoiser in this checkpoint"):
        read_model(tmp_path / "x.safetensors", {})


def test_folders_that_are_several_formats_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"model_index\.json is missing"):
        read_model(tmp_path / "a", {})
    (tmp_path / "a" / "coco_pretrained.pth").touch()
    with pytest.raises(InputError, match=r"holds coco_pretrained\.pth: name the checkpoint itself"):
        read_model(tmp_path / "a", {})
    (tmp_path / "a" / "model_index.json").write_text('{"format_version": 1, "_class_name": "VQDiffusionPipeline"}')
    words = r"several formats at once: a model folder, a diffusers folder, the checkpoint coco_pretrained\.pth"
    with pytest.raises(InputError, match=words):
        read_model(tmp_path / "a", {})


def test_what_training_frameworks_leave_beside_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Lightning file of taming's: its callbacks are read as empty stand-ins, and nothing of them runs."""
    module = ModuleType("pytorch_lightning.callbacks")

    class Callback:
        def __init__(self) -> None:
            self.best = 3

        def __setstate__(self, state: object) -> None:
            raise AssertionError("this must not run")

    Callback.__module__, Callback.__qualname__ = module.__name__, "Callback"
    module.Callback = Callback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = read_weights(GOLDEN / "codecs" / "openimages_like_gumbel.pth")
    torch.save({**state, "callbacks": [Callback()], "epoch": 3}, tmp_path / "last.ckpt")
    codec = read(tmp_path / "last.ckpt", {"grid_size": 8})
    assert (codec.config.image_size, codec.num_codes) == (16, 50)
    assert codec.config.gumbel
