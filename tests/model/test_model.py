"""The model folder: what is saved is loaded, and what is wrong with it is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import LFS_POINTER
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import Card, Model
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import SamplingSettings

CODES, STEPS = 12, 8


def tokenizer() -> CompactTokenizer:
    return CompactTokenizer(CompactConfig(16, (4, 8), (0, 0), (0, 0), num_codes=CODES, code_dim=4)).eval()


def class_model(classic: bool = False) -> Model:
    """A class-conditional model of 16 tokens with random weights."""
    torch.manual_seed(0)
    if classic:
        denoiser = ClassicDenoiser(ClassicConfig(CODES, STEPS, 4, 16, 1, 2, num_classes=3, null_class=True))
    else:
        denoiser = ModernDenoiser(ModernConfig(CODES, STEPS, 4, 16, 1, 2, token_width=8, num_classes=3))
    card = Card("toy", {"weights": "MIT"}, "nothing", {"psnr": 1.5})
    return Model(
        Schedule.paper(STEPS, CODES),
        denoiser.eval(),
        tokenizer(),
        sampling=SamplingSettings(steps=4),
        card=card,
    )


@pytest.mark.parametrize("classic", [False, True])
def test_saved_and_loaded_models_draw_the_same(tmp_path: Path, classic: bool) -> None:
    model = class_model(classic)
    model.save(tmp_path / "toy")
    again = Model.load(tmp_path / "toy")
    assert (again.schedule, again.sampling, again.card) == (model.schedule, model.sampling, model.card)
    before, after = (Pipeline(m)([0, 2], num_images=2, seed=5) for m in (model, again))
    assert [one.tobytes() for one in before] == [one.tobytes() for one in after]


def test_half_precision_on_disk(tmp_path: Path) -> None:
    model = class_model()
    model.save(tmp_path / "half", torch.float16)
    model.save(tmp_path / "full")
    sizes = [(tmp_path / name / "denoiser/model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    assert Model.load(tmp_path / "half").denoiser.head.weight.dtype == torch.float32


def test_saving_replaces_a_model_and_spares_other_folders(tmp_path: Path) -> None:
    class_model().save(tmp_path / "toy")
    class_model(classic=True).save(tmp_path / "toy")
    assert type(Model.load(tmp_path / "toy").denoiser) is ClassicDenoiser


def test_fingerprint_is_of_the_folder(tmp_path: Path) -> None:
    model = class_model()
    model.save(tmp_path / "one")
    model.save(tmp_path / "same")
    model.denoiser.head.bias.data[0] += 1
    model.save(tmp_path / "other")
    model.sampling = SamplingSettings(steps=3)  # the settings of a picture are given beside the model
    model.save(tmp_path / "defaults")
    model.masked_nll = (0.1, 1.2, 3.7)  # has a hash of its own, in the record of an image that depends on it
    model.save(tmp_path / "measured")
    names = ("one", "same", "other", "defaults", "measured")
    one, same, other, defaults, measured = (Model.load(tmp_path / name).fingerprint for name in names)
    assert one == same != other == defaults == measured


def test_a_measurement_is_saved_and_loaded(tmp_path: Path) -> None:
    model = class_model()
    model.save(tmp_path / "toy")
    assert Model.load(tmp_path / "toy").masked_nll == ()
    model.masked_nll = (0.1, 1.2, 3.7)
    model.save(tmp_path / "toy")
    again = Model.load(tmp_path / "toy")
    assert again.masked_nll == model.masked_nll
    asked = again.settings(curve="measured", steps=4)
    assert again.curve_identity(asked) == model.curve_identity(asked) != class_model().curve_identity(asked)
    assert again.curve_identity(again.settings(steps=4)) == {}
    with pytest.raises(InputError, match="this model has no measurement"):
        class_model().settings(curve="measured")
    file = tmp_path / "toy" / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"masked_nll": [2.0, 1.0]}))
    with pytest.raises(InputError, match=r"model_index\.json: masked_nll must be two or more numbers"):
        Model.load(tmp_path / "toy")


def test_presets(tmp_path: Path) -> None:
    model = class_model()
    model.save(tmp_path / "without")
    model.presets = {"fast": {"steps": 3, "guidance_interval": (0.0, 0.5)}, "soft": {"temperature": 2.0}}
    model.save(tmp_path / "with")
    assert "presets" not in json.loads((tmp_path / "without" / "model_index.json").read_text())
    own, rule = (Model.load(tmp_path / name) for name in ("with", "without"))
    assert own.fingerprint == rule.fingerprint
    assert own.settings(preset="fast") == replace(own.sampling, steps=3, guidance_interval=(0.0, 0.5))
    assert own.settings(preset="fast", steps=2, guidance=None).steps == 2  # what is given wins
    assert own.settings(preset="soft").temperature == 2
    assert (own.settings(preset="best").steps, own.settings(preset=None).steps) == (8, 4)
    assert rule.own_presets == {"fast": {"steps": 2}, "best": {"steps": 8}}
    rule.sampling = SamplingSettings(steps=15)
    assert (rule.settings(preset="fast").steps, rule.settings(preset="best").steps) == (8, 16)  # of 16 tokens
    rule.sampling = SamplingSettings("ancestral", steps=8)
    assert rule.settings(preset="fast") == replace(rule.sampling, sampler="strided", steps=4)
    assert own.settings(preset="ithq-guided", steps=5).guidance == 5
    with pytest.raises(InputError, match="unknown preset 'fats': did you mean 'fast'"):
        own.settings(preset="fats")
    with pytest.raises(InputError, match="choose one of fast, best, soft, ithq, "):
        own.settings(preset="???")


def test_labels_are_checked() -> None:
    for label in (3, -1, "cat"):
        with pytest.raises(InputError, match="0 to 2"):
            class_model().encode([label])


def test_classes_have_names(tmp_path: Path) -> None:
    model = class_model()
    model.save(tmp_path / "unnamed")
    model.class_names = ("boat", "Tree", "2")
    model.save(tmp_path / "named")
    assert "class_names" not in json.loads((tmp_path / "unnamed" / "model_index.json").read_text())
    named, unnamed = (Model.load(tmp_path / name) for name in ("named", "unnamed"))
    assert (named.class_names, unnamed.class_names) == (("boat", "Tree", "2"), ())
    assert named.fingerprint == unnamed.fingerprint  # an image does not depend on them
    assert named.encode(["boat", "tree", " Tree ", "0", 1, "2", None]).tolist() == [0, 1, 1, 0, 1, 2, 3]
    model.class_names = ("2", "0", "1")
    assert model.encode(["2", 2, "1"]).tolist() == [0, 2, 2]  # a text is a name first, a number is a label
    drawn = [Pipeline(named)(prompt, seed=3)[0].tobytes() for prompt in ("tree", "1", 1)]
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("baot", "no class 'baot': did you mean 'boat'?"),
        ("elephant", "choose one of boat, tree, house, or a label from 0 to 2"),
        ("7", "labels run from 0 to 2, not '7'"),
        (-1, "labels run from 0 to 2, not -1"),
    ],
)
def test_an_unknown_class_is_one_line(given: str | int, words: str) -> None:
    model = class_model()
    model.class_names = ("boat", "tree", "house")
    with pytest.raises(InputError) as error:
        Pipeline(model)(given)
    assert words in str(error.value)


def test_of_many_classes_some_are_named() -> None:
    model = class_model()
    model.class_names = tuple(f"class {number:03}" for number in range(900))
    with pytest.raises(InputError, match=r"class 019, … \(900 in all, see vqdiff info\)"):
        model.label("elephants")


def test_unconditional_models_have_no_guidance() -> None:
    model = class_model()
    model.denoiser = ModernDenoiser(ModernConfig(CODES, STEPS, 4, 16, 1, 2, token_width=8)).eval()
    assert model.encode(None) is None
    assert len(Pipeline(model)(num_images=2, guidance=1.0)) == 2
    assert model.bind(None)(torch.zeros(2, 16).long(), torch.tensor([1, 2])).shape == (2, 16, CODES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json is missing"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "holds a list"),
        (lambda folder: change(folder / "model_index.json", components=None), "model folder"),
        (lambda folder: (folder / "denoiser/model.safetensors").unlink(), "incomplete"),
        (lambda folder: (folder / "denoiser/config.json").unlink(), "config.json is missing"),
        (lambda folder: truncate(folder / "denoiser/model.safetensors"), "broken"),
        (lambda folder: (folder / "denoiser/model.safetensors").write_bytes(LFS_POINTER), "run git lfs pull there"),
        (lambda folder: change(folder / "denoiser/config.json", depth=3), "of another network"),
        (lambda folder: change(folder / "denoiser/config.json", colour=3), "unknown key 'colour'"),
        (lambda folder: change(folder / "denoiser/config.json", **{"class": "Nothing"}), "unknown class"),
        (lambda folder: change(folder / "model_index.json", format_version=99), "format version 99"),
        (lambda folder: change(folder / "model_index.json", schedule={}), "schedule"),
        (lambda folder: change(folder / "model_index.json", components={}), "missing"),
        (
            lambda folder: change(folder / "model_index.json", presets={"fast": {"stesp": 3}}),
            "preset fast: unknown set",
        ),
        (
            lambda folder: change(folder / "model_index.json", presets={"slow": {"steps": 17}}),
            "preset slow: steps is 17",
        ),
        (lambda folder: change(folder / "model_index.json", presets={"fast": 3}), "model folder"),
        (lambda folder: change(folder / "model_index.json", presets=[1]), "model folder"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    class_model().save(tmp_path / "toy")
    damage(tmp_path / "toy")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        Model.load(tmp_path / "toy")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
