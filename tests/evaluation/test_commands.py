"""evaluate, study and train scorer, as a user runs them, on the bundled model and a few committed drawings."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import vqdiff
from bundled_model import linked_copy, overwrite
from vqdiff.cli import main
from vqdiff.data import load
from vqdiff.evaluation import generation
from vqdiff.evaluation.plots import Point, front
from vqdiff.evaluation.protocol import Result
from vqdiff.evaluation.scoring import Scoring
from vqdiff.evaluation.study import Study
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import batches
from vqdiff.metrics import Estimate
from vqdiff.model.finding import bundled
from vqdiff.sampling import Reveal

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "fixtures" / "emoji-sample"

TRIAL = """
[trial]
data = "OUT/data"
drawn = "OUT/drawn"
prompts = "train"
reference = "train"
num_pictures = 12
choices = 10
seeds = [0, 100]
batch_size = 5
"""
EVALUATION = 'output = "OUT/result"\n[sampling]\nsteps = 2\nguidance = 1\n' + TRIAL
STUDY = """
title = "A title"
output = "OUT/study"
x = "steps"
scores = ["fd_effnet", "text_score_emoji"]
pictures = 2
[[grid]]
sampler = ["purity", "halton"]
steps = [1, 2]
guidance = [1.0]
"""


@pytest.fixture(scope="module", autouse=True)
def features_of_the_same_pixels_are_computed_once() -> Iterator[None]:
    """Those of the real drawings take longer than all else here, and are the same in every test."""
    known, compute = dict[bytes, dict[str, Tensor]](), Scoring.features

    def features(scoring: Scoring, pictures: Iterator[Tensor]) -> dict[str, Tensor]:
        pixels = list(pictures)
        networks = "".join(network.fingerprint for network in scoring.networks)
        key = hashlib.sha256(torch.cat(pixels).numpy().tobytes() + networks.encode()).digest()
        if key not in known:
            known[key] = compute(scoring, iter(pixels))
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scoring, "features", features)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "data")
    return tmp_path


def config(folder: Path, text: str) -> str:
    path = folder / "config.toml"
    path.write_text(text.replace("OUT", str(folder)))
    return str(path)


def test_evaluate_writes_a_result_and_draws_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(folder, EVALUATION)
    main(["evaluate", path])
    assert "| r_precision_emoji_check |" in capsys.readouterr().out
    first = Result.load(folder / "result.json")
    assert first.measurement.num_pictures == 12
    assert first.measurement.seeds == (0, 100)
    assert first.subject.settings["steps"] == 2
    assert first.scores["fd_effnet"].n == 2
    assert first.scores["fd_effnet"].mean > 0
    assert {"style_accuracy_emoji", "coverage", "kd_effnet", "diversity"} <= first.scores.keys()

    # Interrupted: one batch of tokens and all results are gone. Only that batch is drawn again, to the same tokens.
    lost = sorted((folder / "drawn").glob("*/0/*.safetensors"))[1]
    before = lost.read_bytes()
    lost.unlink()
    shutil.rmtree(folder / "drawn" / "results")
    drawn = list[Any]()
    tokens = generation.Pipeline.tokens
    monkeypatch.setattr(generation.Pipeline, "tokens", lambda pipe, job: drawn.append(job.seeds) or tokens(pipe, job))
    main(["evaluate", path])
    assert [list(seeds) for seeds in drawn] == [[5, 6, 7, 8, 9]]
    assert lost.read_bytes() == before
    assert Result.load(folder / "result.json").scores == first.scores


def test_the_scorers_know_real_drawings(folder: Path) -> None:
    """Style, role and R-precision of the drawings themselves are high, and low in another order."""
    trial = read_config(Study, Path(config(folder, STUDY + TRIAL))).trial
    pictures = load(folder / "data", "train", 128)
    scoring = Scoring(trial, pictures, pictures)
    features = [scoring.features(batches(pixels)) for pixels in (pictures.pixels, pictures.pixels[::-1])]
    right, wrong = map(scoring.scores, features)
    assert set(right) | {"diversity"} == set(scoring.names())
    assert scoring.diversity(features) > scoring.diversity([features[0], features[0]]) == [0]
    for name in ("style_accuracy", "role_accuracy", "r_precision"):
        assert right[f"{name}_emoji_check"] > 0.8 > 0.4 > wrong[f"{name}_emoji_check"]
    assert abs(right["fd_effnet"]) < 1e-3


def test_two_processes_share_the_drawing(folder: Path) -> None:
    path = config(folder, EVALUATION.replace("[0, 100]", "[0]"))
    main(["evaluate", path])
    alone = Result.load(folder / "result.json")
    tokens = {file: file.read_bytes() for file in (folder / "drawn").rglob("*.safetensors")}
    shutil.rmtree(folder / "drawn")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [sys.executable, *launch, "-m", "vqdiff", "evaluate", path],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("| r_precision_emoji_check |") == 1  # two that did not find each other would both print it
    assert {file: file.read_bytes() for file in (folder / "drawn").rglob("*.safetensors")} == tokens
    assert Result.load(folder / "result.json").scores == alone.scores


def test_evaluate_compares_only_what_was_measured_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(folder, EVALUATION)
    main(["evaluate", path, "--set", "trial.seeds=[0]"])
    earlier = shutil.copy(folder / "result.json", folder / "earlier.json")
    one_seed = ["--set", "trial.seeds=[0]", "--against", str(earlier)]
    main(["evaluate", path, "--set", "sampling.steps=1", *one_seed])
    assert "| settings.steps | 2 | 1 |" in capsys.readouterr().out
    drawn = set((folder / "drawn").iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", path, "--set", "trial.num_pictures=11", "--set", "sampling.steps=3", *one_seed])
    assert stopped.value.code == 2
    assert "num_pictures is 12 and 11" in capsys.readouterr().err
    assert set((folder / "drawn").iterdir()) == drawn  # refused before anything was drawn


def test_evaluate_the_image_tokenizer(folder: Path) -> None:
    main(["evaluate", config(folder, "reconstruct = true\n" + EVALUATION)])
    scores = Result.load(folder / "result.json").scores
    assert scores["psnr"].mean > 24
    assert 0.8 < scores["ssim"].mean < 1
    assert scores["r_precision_emoji"].mean > 0.5  # among 10 captions; by chance 0.1


def test_evaluate_a_set_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images in folders of classes, with neither captions nor the columns of the emoji set."""
    pictures = load(folder / "data", "train", 128)
    for number, pixels in enumerate(pictures.pixels[:24]):
        place = folder / "own" / "test" / ("heart", "red apple")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    own = EVALUATION.replace("OUT/data", "OUT/own").replace('"train"', '"test"')
    path = config(folder, own)
    with pytest.raises(SystemExit):
        main(["evaluate", path])
    error = capsys.readouterr().err
    assert "12 images of test have 2 different captions: set trial.choices to 2 or less, or raise num_pictures" in error
    assert not (folder / "drawn").exists()

    main(["evaluate", path, "--set", "trial.choices=2", "--set", "trial.seeds=[0]"])
    error = capsys.readouterr().err
    assert "has no column style, gender, tone, so these scores are left out: style_accuracy_emoji, " in error
    scores = Result.load(folder / "result.json").scores
    assert not [name for name in scores if "accuracy" in name]
    assert {"fd_effnet", "text_score_emoji", "r_precision_emoji_check"} <= scores.keys()


def test_long_captions_are_truncated_as_in_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also that the held-out share of a set with only train is the one that is set."""
    pictures = load(folder / "data", "train", 128)
    place = folder / "own" / "train"
    place.mkdir(parents=True)
    for number, pixels in enumerate(pictures.pixels[:20]):
        Image.fromarray(pixels).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"image {number} " + "of more words than there is room for " * 9)
    path = config(folder, EVALUATION.replace("OUT/data", "OUT/own").replace('"train"', '"test"'))
    changes = ("trial.num_pictures=0", "trial.validation=0.5", "trial.choices=5", "trial.seeds=[0]", "sampling.steps=1")
    main(["evaluate", path, *(word for change in changes for word in ("--set", change))])
    count = Result.load(folder / "result.json").measurement.num_pictures
    assert count == 10
    assert f"{count} of {count} captions are too long for emoji and are truncated: 'image " in capsys.readouterr().err


def test_study_draws_a_table_a_plot_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(folder, STUDY + TRIAL)
    main(["study", path])
    out = capsys.readouterr().out
    assert "4/4  halton, 2 steps:" in out
    table = (folder / "study" / "table.md").read_text()
    assert table.count("\n| halton |") == 2
    results = json.loads((folder / "study" / "results.json").read_text())
    assert len({result["id"] for result in results}) == 4
    for name in ("plot.png", "pictures.png"):
        with Image.open(folder / "study" / name) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    main(["study", path, "--set", "output=" + str(folder / "again")])  # from what was kept
    assert (folder / "again" / "table.md").read_text() == table


def test_a_study_against_seconds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two temperatures are compared: the plot has the better one at each number of steps; the table has all."""
    text = STUDY.replace('x = "steps"', 'x = "seconds"\nbest_over = ["temperature"]\ntimed = 2').replace(
        '["fd_effnet", "text_score_emoji"]', '["fd_effnet", "seconds"]'
    )
    study = text.replace('["purity", "halton"]', '["purity"]') + (
        "temperature = [1.0, 3.0]\n[[grid]]\nreconstruct = true\n"
        '[[grid]]\nsampler = ["purity"]\ncurve = ["measured"]\nsteps = [2]\n'
        '[[grid]]\nsampler = ["entropy-bound"]\nsteps = [2]\n'
    )
    main(["study", config(folder, study + TRIAL.replace("[0, 100]", "[0]"))])
    table = (folder / "study" / "table.md").read_text()
    assert "; seconds of 2 images, one by one, on " in table
    results = json.loads((folder / "study" / "results.json").read_text())
    seconds = [result["scores"].get("seconds") for result in results]
    assert [one is None for one in seconds] == [False] * 4 + [True] + [False] * 2
    measured, adaptive = (result["subject"]["settings"] for result in results[5:])
    assert (measured["network_calls"], len(measured["curve_hash"])) == (2, 12)
    assert adaptive["network_calls"] == "at most 2"
    assert "curve_hash" not in adaptive
    assert all(len(one["values"]) == 2 and min(one["values"]) > 0 for one in seconds[:4])
    assert [result["scores"]["calls"]["mean"] for result in results[:4]] == [1, 1, 2, 2]
    assert table.splitlines()[6].endswith("| — |")
    for change, says in (
        ('x="second"', "x is 'second': it must be one of"),
        ('best_over=["t"]', "best_over is 't'"),
        ('x="network_calls"', "an adaptive sampler has no fixed number"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main(["study", config(folder, study + TRIAL), "--set", change])
        assert says in capsys.readouterr().err


def test_the_front_is_what_nothing_faster_is_better_than() -> None:
    points = [
        Point(x, {"kd_effnet": Estimate(kd, None, 1), "r_precision_emoji": Estimate(1 - kd, None, 1)})
        for x, kd in ((3.0, 0.3), (1.0, 0.5), (2.0, 0.6), (4.0, 0.3), (5.0, 0.1))
    ]
    for score in ("kd_effnet", "r_precision_emoji"):
        assert [point.x for point in front(score, points)] == [1.0, 3.0, 5.0]


def test_a_study_of_guidance_over_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = (
        "steps = [2]\nguidance = [3.0]\nguidance_schedule = ['constant', 'linear']\nguidance_interval = [[0.0, 0.5]]\n"
    )
    study = STUDY[: STUDY.index("sampler =")].replace('x = "steps"\n', "") + grid
    main(["study", config(folder, study + TRIAL), "--set", "trial.seeds=[0]"])
    assert "2/2  linear:" in capsys.readouterr().out
    rows = (folder / "study" / "table.md").read_text().splitlines()
    assert rows[2].split("|")[2:] != rows[3].split("|")[2:]  # a scale that rises draws other pictures
    assert "guidance_interval (0.0, 0.5)" in rows[-1]


def test_a_study_of_guides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = "steps = [2]\nguidance = [3.0]\nguide = ['null', 'skipped-layers']\n"
    study = STUDY[: STUDY.index("sampler =")].replace('x = "steps"\n', "") + grid
    main(["study", config(folder, study + TRIAL), "--set", "trial.seeds=[0]"])
    assert "2/2  away from skipped-layers:" in capsys.readouterr().out
    rows = (folder / "study" / "table.md").read_text().splitlines()
    assert rows[2].split("|")[2:] != rows[3].split("|")[2:]


def test_a_broken_sampler_is_seen_by_a_study(folder: Path) -> None:
    """A changed sampler of the same name draws again, since its code is part of the key of what is kept, and worse."""
    study = STUDY.replace('["purity", "halton"]', '["purity"]').replace("[1, 2]", "[8]")
    path = config(folder, study + TRIAL.replace("[0, 100]", "[0]"))
    package, code = Path(vqdiff.__file__).parent, Path(inspect.getfile(Reveal))
    changed = linked_copy(package, folder / "changed" / "vqdiff") / code.relative_to(package)
    overwrite(changed, code.read_bytes() + b"\n\ndef draw_categorical(log_p, u):\n    return log_p.argmin(-1)\n")
    scores = list[float]()
    for source in (package.parent, folder / "changed"):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
        subprocess.run([sys.executable, "-m", "vqdiff", "study", path], check=True, env=environment, cwd=folder)
        (result,) = json.loads((folder / "study" / "results.json").read_text())
        scores.append(result["scores"]["kd_effnet"]["mean"])
    assert scores[1] > 2 * scores[0]


def test_study_of_token_accuracy(folder: Path) -> None:
    main(["study", config(folder, 'title = "A"\noutput = "OUT/study"\n[accuracy]\ntimes = [50]\nbins = 2\n' + TRIAL)])
    low, high = json.loads((folder / "study" / "results.json").read_text())["bins"]
    assert low["purity"] < 0.5 < high["purity"]
    assert low["accuracy"] + 2 * low["error"] < high["accuracy"] - 2 * high["error"]
    assert (folder / "study" / "plot.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trial.num_pictures=1000", "num_pictures is 1000"),
        ("trial.seeds=[]", "seeds is empty"),
        ("x=colour", "x is 'colour'"),
        ('scores=["fid"]', "unknown score 'fid'"),
        ("scores=[]", "at least one name"),
        ("pictures=0", "pictures must be at least 1"),
        ("output=pyproject.toml/study", "cannot create the folder"),
        ("trial.choices=13", "choices is 13, and the 12 images of train have 12 different captions: set trial.choices"),
        ("trial.prompts=somewhere", "no split 'somewhere'; it has test_comp, test_concept, test_style, train"),
        ("trial.reference=somewhere", "no split 'somewhere'"),
        ("trial.num_pictures=9", "10 images are needed"),
        ("trial.seeds=[0, 11]", "the seeds 0 and 11 are nearer"),
        ("trial.data=nowhere", "vqdiff data emoji"),
        ("trial.scorers=[]", "scorers is empty"),
        ('trial.scorers=["nobody"]', "nobody/config.json is missing"),
        ("grid=[]", r"either [[grid]] tables or"),
    ],
)
def test_mistakes_are_one_line(folder: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = STUDY.replace('["purity", "halton"]', '["halton"]').replace("[1, 2]", "[1]") + TRIAL
    changes = [change] if change != "trial.num_pictures=9" else [change, "trial.choices=9"]
    with pytest.raises(SystemExit) as stopped:
        main(["study", config(folder, text), *(word for one in changes for word in ("--set", one))])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert not (folder / "drawn").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_studies_are_well_formed(path: Path) -> None:
    study = read_config(Study, path, [f"trial.data={SAMPLE}"])
    assert bool(study.grid) != (study.accuracy is not None)


def test_train_scorer_and_use_it(folder: Path) -> None:
    text = (ROOT / "configs" / "emoji" / "scorer.toml").read_text() + 'held_out = ["test_style"]\n'
    lines = [line for line in text.splitlines() if not line.startswith(("data", "output", "text_encoder", "held_out"))]
    head = f'data = "OUT/data"\noutput = "OUT/scorers"\ntext_encoder = "{bundled()["emoji"] / "text_encoder"}"\n'
    small = 'held_out = ["train"]\nepochs = 60\nbatch_size = 64\n'
    main(["train", "scorer", config(folder, head + small + "\n".join(lines))])
    for name in ("emoji", "emoji_check"):
        card = json.loads((folder / "scorers" / name / "card.json").read_text())
        assert card["quality"]["train"]["r_precision"] > 0.8  # by chance 0.01
        assert card["quality"]["train"]["style_accuracy"] > 0.8
    one_seed = ["--set", "trial.seeds=[0]"]
    main(
        [
            "evaluate",
            config(folder, EVALUATION),
            *one_seed,
            "--set",
            f'trial.scorers=["{folder / "scorers" / "emoji"}"]',
        ]
    )
    assert Result.load(folder / "result.json").measurement.scorer == "emoji"
    text = head + small + "\n".join(lines)
    with pytest.raises(SystemExit):
        main(["train", "scorer", config(folder, text)])  # an output that exists


def test_a_scorer_refuses_another_text_encoder() -> None:
    from vqdiff.scorer import load_scorer, scorer_text_encoder, scorers_folder

    scorer = load_scorer(scorers_folder() / "emoji")
    scorer_text_encoder(scorer)
    scorer.config = replace(scorer.config, text_encoder="another")
    with pytest.raises(InputError, match="another text encoder"):
        scorer_text_encoder(scorer)
