"""What a denoiser can be trained for: text by CLIP, classes, nothing; published network and recipe; less memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vqdiff
from vqdiff.data import TokenSet, tokenize
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.model import Model, save_component
from vqdiff.training.denoiser_settings import DiffusionTraining, GuidanceTraining
from vqdiff.training.diffusion import DiffusionTask, train_diffusion

CONFIG = """
data = "OUT/pictures"
output = "OUT/run"
image_tokenizer = "OUT/tokenizer"
condition = "class"
evaluate = 4
compile = false
[model]
width = 16
depth = 2
heads = 2
patch_size = 1
token_width = 16
[sampling]
steps = 2
guidance = 2.0
[run]
steps = 4
batch_size = 8
learning_rate = 3e-3
warmup = 2
log_every = 2
preview_every = 4
"""
CLASSIC = ("classic.width=16", "classic.depth=2", "classic.heads=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, and an image tokenizer of 2 × 2 tokens."""
    folder = tmp_path_factory.mktemp("denoisers")
    random = np.random.default_rng(0)
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            noise = random.integers(0, 40, (8, 8, 3))
            picture = Image.fromarray(np.clip(np.array(colour) + noise - 20, 0, 255).astype(np.uint8))
            picture.save(folder / "pictures" / name / f"{number}.png")
    torch.manual_seed(0)
    sizes = CompactConfig(8, (8, 8), (0, 0), (0, 0), num_codes=16, code_dim=4)
    save_component(CompactTokenizer(sizes), folder / "tokenizer")
    (folder / "config.toml").write_text(CONFIG.replace("OUT", str(folder)))
    return folder


def config(folder: Path, output: str, *changes: str) -> DiffusionTraining:
    return read_config(DiffusionTraining, folder / "config.toml", [f"output={folder / output}", *changes])


@pytest.mark.parametrize("changes", [(), CLASSIC], ids=["modern", "classic"])
def test_classes(folder: Path, changes: tuple[str, ...]) -> None:
    output = f"class-{len(changes)}"
    train_diffusion(config(folder, output, *changes))
    pipe = vqdiff.load(folder / output / "model")
    assert pipe.model.num_classes == 2
    assert pipe.model.null(1).tolist() == [2]
    assert len(pipe([0, 1], guidance=2.0)) == 2
    assert pipe.model.class_names == ("blue", "red")
    assert pipe.model.encode(["red", "blue"]).tolist() == [1, 0]
    assert pipe("red", seed=1)[0].tobytes() == pipe(1, seed=1)[0].tobytes()


def test_labels_keep_their_meaning_when_a_model_is_trained_further(folder: Path) -> None:
    train_diffusion(config(folder, "start", "run.steps=1"))
    index = folder / "start" / "model" / "model_index.json"
    written = json.loads(index.read_text())
    measured = {"masked_nll": [1.0, 2.0], "sampling": written["sampling"] | {"curve": "measured"}}
    index.write_text(json.dumps(written | measured))
    for name in ("red", "green"):
        for split in ("train", "test"):
            shutil.copytree(folder / "pictures" / "red", folder / f"only-{name}" / split / name)
    text = f'start = "{folder / "start" / "model"}"\noutput = "{folder / "on"}"\ncompile = false\n'
    (folder / "on.toml").write_text(text + "[run]\nsteps = 1\nbatch_size = 8\nlearning_rate = 1e-3\n")
    task = DiffusionTask(read_config(DiffusionTraining, folder / "on.toml", [f"data={folder / 'only-red'}"]))
    assert task.train_set.labels is not None
    assert set(task.train_set.labels.tolist()) == {1}  # not 0, though it is the only class here
    assert task.parts.class_names == ("blue", "red")
    assert (task.parts.masked_nll, task.parts.sampling.curve) == ((), "linear")  # other weights have another one
    assert task.parts.schedule == Model.load(folder / "start" / "model").schedule
    noise = ["noise.alpha_bar=[0.9, 0.0]", "noise.gamma_bar=[0.05, 0.8]"]
    steps = f"noise.num_steps={task.parts.schedule.num_steps}"
    data = f"data={folder / 'only-red'}"
    replaced = DiffusionTask(read_config(DiffusionTraining, folder / "on.toml", [data, *noise, steps]))
    assert replaced.parts.schedule.replaces
    assert replaced.parts.schedule.gamma_bar_ends == (0.05, 0.8)
    assert replaced.parts.schedule.num_steps == task.parts.schedule.num_steps
    with pytest.raises(InputError, match=r"noise\.num_steps is 7, and the times of .* are 1 to"):
        DiffusionTask(read_config(DiffusionTraining, folder / "on.toml", [data, *noise, "noise.num_steps=7"]))
    other = [f"data={folder / 'only-green'}", f"output={folder / 'other-on'}"]
    with pytest.raises(InputError, match="the class 'green' is not one of the known ones, blue, red"):
        DiffusionTask(read_config(DiffusionTraining, folder / "on.toml", other))


@pytest.mark.parametrize("changes", [(), CLASSIC], ids=["modern", "classic"])
def test_unconditional(folder: Path, changes: tuple[str, ...]) -> None:
    output = f"none-{len(changes)}"
    train_diffusion(config(folder, output, "condition=none", *changes))
    pipe = vqdiff.load(folder / output / "model")
    assert pipe.model.null(1) is None
    assert len(pipe([None], guidance=1.0)) == 1


def test_a_model_of_classes_gains_a_null_class(folder: Path) -> None:
    """As the published ImageNet model did: a row more, which begins as the mean of the others."""
    train_diffusion(config(folder, "base", *CLASSIC, "drop=0.0"))
    path = folder / "base" / "model" / "denoiser"
    written = json.loads((path / "config.json").read_text())
    assert written["null_class"]
    start = vqdiff.load(folder / "base" / "model").model
    values = {"start": str(folder / "base" / "model"), "data": str(folder / "pictures"), "output": str(folder / "more")}
    text = "".join(f'{key} = "{value}"\n' for key, value in values.items())
    (folder / "guidance.toml").write_text(
        text + "compile = false\n[run]\nsteps = 2\nbatch_size = 8\nlearning_rate = 1e-3\n"
    )
    train_diffusion(read_config(GuidanceTraining, folder / "guidance.toml"))
    tuned = vqdiff.load(folder / "more" / "model").model
    assert tuned.num_classes == start.num_classes == 2


def test_a_network_without_null_class_keeps_what_it_computes() -> None:
    torch.manual_seed(0)
    sizes = vqdiff.denoisers.ClassicConfig(8, 10, 2, 16, 2, 2, num_classes=3, position_rows=2, position_columns=2)
    network = vqdiff.denoisers.ClassicDenoiser(sizes)
    grown = network.with_null_class()
    assert grown.config.null_class
    assert grown.with_null_class() is grown
    tokens, t = torch.randint(9, (4, 4)), torch.tensor([1, 4, 7, 10])
    labels = torch.tensor([0, 1, 2, 3])  # the last: no class
    torch.testing.assert_close(grown(tokens, t, labels), network(tokens, t, labels))


def test_recomputing_activations_changes_no_gradient(folder: Path) -> None:
    for changes in (), CLASSIC:
        gradients, kept = list[torch.Tensor](), list[int]()
        for recompute in ("false", "true"):
            task = DiffusionTask(config(folder, "recompute", f"recompute={recompute}", *changes))
            kept.append(0)

            def keep(tensor: torch.Tensor) -> torch.Tensor:
                kept[-1] += tensor.numel()  # noqa: B023
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = task.objective(**task.batch(0, slice(0, 8)))
            loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in task.model.parameters() if p.grad is not None]))
        assert gradients[0].norm() > 0
        torch.testing.assert_close(*gradients)
        assert kept[1] < 0.8 * kept[0]


def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path) -> None:
    """Bit for bit, with a time that is drawn by what it cost before."""
    changes = ["loss.importance=true", "noise.num_steps=2", "run.decay=0.0", "run.log_every=1", "run.ema=0.9"]
    train_diffusion(config(folder, "unbroken", *changes, "run.steps=6"))
    train_diffusion(config(folder, "resumed", *changes, "run.steps=3"))
    train_diffusion(config(folder, "resumed", *changes, "run.steps=6"), resume=True)
    runs = [folder / "unbroken", folder / "resumed"]
    one, other = ([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs)
    assert [r["loss"] for r in other if "loss" in r] == [r["loss"] for r in one if "loss" in r]
    one, other = (torch.load(run / "last.pt", weights_only=True) for run in runs)
    for kind in "weights", "average":
        for name, value in one[kind].items():
            assert torch.equal(value, other[kind][name]), name


def test_processes_see_different_rows_of_one_batch(folder: Path) -> None:
    task = DiffusionTask(config(folder, "shares"))
    whole = task.batch(3, slice(0, 8))
    parts = [task.batch(3, share) for run in [task.config.run] for share in run.shares(0, 2) + run.shares(1, 2)]
    assert len(parts) == 2
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value)


def test_a_part_of_the_positions_skips_blocks_until_the_end(folder: Path) -> None:
    deep = ("model.depth=4", "run.steps=10", "noise.num_steps=2")
    plain = DiffusionTask(config(folder, "plain", *deep))
    task = DiffusionTask(config(folder, "routed", *deep, "routing.share=0.5", "routing.until=0.8"))
    batches = [task.batch(step, slice(2, 8)) for step in range(10)]
    assert ["through" in batch for batch in batches] == [True] * 8 + [False] * 2
    through = batches[0].pop("through")
    assert through.shape == (6, 2)
    assert len({tuple(sorted(row)) for row in through.tolist()}) > 1
    for name, value in plain.batch(0, slice(2, 8)).items():
        assert torch.equal(value, batches[0][name])  # the same rows, times and noise
    torch.nn.init.normal_(task.model.get_submodule("denoiser").modulation.weight)  # a new block changes nothing
    losses = [task.objective(**batches[0], **more)[0] for more in ({}, {"through": through})]
    assert losses[0] != losses[1]
    train_diffusion(task.config)
    assert len(vqdiff.load(folder / "routed" / "model")(0)) == 1


def test_importance_learns_where_the_loss_is(folder: Path) -> None:
    task = DiffusionTask(config(folder, "importance", "loss.importance=true", "noise.num_steps=4"))
    assert task.objective.count.sum() == 0
    for step in range(30):
        task.objective(**task.batch(step, slice(0, 8)))
    assert task.objective.count.sum() == 240
    assert (task.objective.second_moment > 0).all()


def test_a_share_is_held_out(folder: Path) -> None:
    """The same images every time; a split named validation comes before one named test."""
    task = DiffusionTask(config(folder, "share", "validation=0.25"))
    assert (len(task.train_set), len(task.test_set)) == (18, 6)
    again = DiffusionTask(config(folder, "again", "validation=0.25"))
    assert list(again.test_set.names) == list(task.test_set.names)
    assert not set(task.test_set.names) & set(task.train_set.names)
    with pytest.raises(InputError, match="validation is 1"):
        config(folder, "none", "validation=1.0")
    for split in ("train", "test", "val"):
        shutil.copytree(folder / "pictures", folder / "splits" / split)
    assert DiffusionTask(config(folder, "splits-run", f"data={folder / 'splits'}")).held_out == "val"


def test_few_held_out_images_are_measured_often(folder: Path) -> None:
    task = DiffusionTask(config(folder, "often", "evaluate=100"))
    assert len(task.test_set) == 1 < len(task.test_tokens)
    scores = task.evaluate(task.model)
    assert scores == task.evaluate(task.model)
    count = len(task.test_tokens)
    noise = torch.rand(task.test_tokens.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss, _ = task.objective(task.test_tokens, (torch.arange(count) + 0.5) / count, noise, task.given)
    assert scores["held_out_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)  # what training minimises


def test_tokens_made_before_are_used_and_checked(folder: Path) -> None:
    tokenizer = vqdiff.model.load_component(folder / "tokenizer")
    for split in ("train", "test"):
        tokenize(folder / "pictures", split, tokenizer, folder / "tokens")
    task = DiffusionTask(config(folder, "from-tokens", f"data={folder / 'tokens'}"))
    assert np.array_equal(task.train_set.tokens, TokenSet.load(folder / "tokens", "train").tokens)
    torch.manual_seed(1)
    save_component(CompactTokenizer(tokenizer.config), folder / "other")
    with pytest.raises(InputError, match="tokens of another image tokenizer"):
        DiffusionTask(config(folder, "x", f"data={folder / 'tokens'}", f"image_tokenizer={folder / 'other'}"))


def test_sanity_learns_one_batch_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    train_diffusion(config(folder, "sane", "run.learning_rate=0.01"), sanity=True)
    assert "one batch, step 200" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(InputError, match="a run would not learn either"):
        train_diffusion(config(folder, "insane", "run.learning_rate=1e-9"), sanity=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("condition=text",), "needs a text_encoder"),
        (("text_encoder=somewhere",), "takes no text_encoder"),
        (("drop=1.0",), "drop is 1.0"),
        (("routing.share=1.0",), "routing has share 1.0"),
        (("routing.share=0.5",), "modern denoisers of at least four blocks"),  # this has two
        ((*CLASSIC, "routing.share=0.5"), "modern denoisers"),
        (("emphasis.colour.red=2.0",), "no column 'colour'"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DiffusionTask(config(folder, "refused", *changes))


def test_captions_are_needed_for_text(folder: Path) -> None:
    shutil.copytree(folder / "pictures", folder / "silent")
    encoder = Path(vqdiff.__file__).parent / "models" / "emoji" / "text_encoder"
    with pytest.raises(InputError, match="has no caption"):
        DiffusionTask(config(folder, "t", "condition=text", f"text_encoder={encoder}", f"data={folder / 'silent'}"))


def test_the_finished_model_goes_to_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is sent is the model alone, never a state of the optimizer; the sending itself is tested with a server."""
    sent = dict[str, object]()

    def push(files: Path, repo: str, **options: object) -> str:
        sent.update(options, repo=repo, files=sorted(path.name for path in files.rglob("*") if path.is_file()))
        return "https://hub/commit/1"

    monkeypatch.setattr("vqdiff.training.upload.check_push", lambda repo: sent.setdefault("checked", repo))
    monkeypatch.setattr("vqdiff.pipeline.check_push", lambda *_: None)
    monkeypatch.setattr("vqdiff.pipeline.push", push)
    train_diffusion(config(folder, "shared", "hub.push_to=ann/toy", "hub.private=true"))
    assert "uploaded: https://hub/commit/1" in capsys.readouterr().out
    assert (sent["checked"], sent["repo"], sent["private"]) == ("ann/toy", "ann/toy", True)
    parts = ["config.json", "model.safetensors"] * 2
    assert sent["files"] == sorted([*parts, "README.md", "model_index.json", "samples.png"])


def test_a_push_that_cannot_work_stops_the_run_before_it_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="no token to push to ann/toy with"):
        train_diffusion(config(folder, "unshared", "hub.push_to=ann/toy"))
    assert not (folder / "unshared").exists()


def test_a_push_that_fails_says_how_to_try_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise InputError("cannot push to ann/toy: no connection")

    monkeypatch.setattr("vqdiff.training.upload.check_push", lambda _: None)
    monkeypatch.setattr("vqdiff.pipeline.check_push", fail)
    again = "upload it with `vqdiff push .*lonely/model ann/toy --revision next`"
    with pytest.raises(InputError, match=f"no connection; the model is complete in .*{again}"):
        train_diffusion(config(folder, "lonely", "hub.push_to=ann/toy", "hub.revision=next"))
    assert vqdiff.load(folder / "lonely" / "model").model.num_classes == 2
