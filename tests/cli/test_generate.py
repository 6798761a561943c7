"""``vqdiff generate`` as a user meets it: files, metadata, one-line errors, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bundled_model import linked_copy, overwrite
from vqdiff.cli import main
from vqdiff.model.finding import bundled


def run(*arguments: str) -> int:
    try:
        main(["generate", *arguments, "--device", "cpu"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_picture_with_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "apple.png"
    assert run("a red apple", "-o", str(out), "--steps", "2", "--seed", "5", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["output"] == str(out)
    with Image.open(out) as image:
        assert image.size == (128, 128)
        stored = json.loads(image.text["vqdiff"])  # type: ignore[attr-defined]
    assert stored == {key: value for key, value in record.items() if key != "output"}
    assert {"prompts": ["a red apple"], "seed": 5, "steps": 2, "model": "emoji"}.items() <= stored.items()
    assert len(stored["model_hash"]) == 12
    assert stored["network_calls"] == 2


def test_a_prompt_without_a_known_word_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("קפה", "🍎", "-o", str(tmp_path / "two.png"), "--steps", "1") == 0
    # Under pytest every repetition is shown, otherwise the first.
    (line,) = {line for line in capsys.readouterr().err.splitlines() if "warning" in line}
    assert line.startswith("vqdiff: warning: no word of the prompt 'קפה' is known to this model")


def test_an_emoji_draws_what_its_name_does(tmp_path: Path) -> None:
    for name, prompt in (("one", "👍🏿"), ("two", "thumbs up with dark skin tone")):
        assert run(prompt, "-o", str(tmp_path / f"{name}.png"), "--steps", "2") == 0
    one, two = (Image.open(tmp_path / f"{name}.png").tobytes() for name in ("one", "two"))
    assert one == two


def test_the_record_tells_what_guided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--guidance",
        "3",
        "--guidance-interval",
        "0.2",
        "0.8",
        "--negative",
        "red",
        "--towards",
        "a dog",
        "--weight",
        "0.25",
    ]
    assert run("a cat", "-o", str(tmp_path / "cat.png"), "--steps", "1", "--json", *options) == 0
    record = json.loads(capsys.readouterr().out)
    guidance = {"guidance": 3.0, "guidance_schedule": "constant", "guidance_interval": [0.2, 0.8]}
    assert guidance.items() <= record.items()
    blend = {"first": "a cat", "second": "a dog", "weight": 0.25}
    assert {"prompts": [blend], "negative": "red"}.items() <= record.items()


def test_the_record_tells_the_calls_that_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cat.png"
    assert run("cat", "-o", str(out), "--sampler", "strided", "--steps", "120", "--guidance", "1", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["steps"], record["network_calls"]) == (120, 100)  # the schedule has 100 times


def test_grids_animation_and_heat_maps(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    options = ["-f", str(tmp_path / "prompts.txt"), "-n", "2", "--steps", "2", "-o", str(tmp_path / "grid.png")]
    assert run(*options, "--gif", str(tmp_path / "a.gif"), "--confidence", str(tmp_path / "heat.png")) == 0
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.[pg][ni]*")}
    assert sizes == {"grid.png": (268, 268), "a.gif": (128, 128), "heat.png": (268, 136)}
    assert Image.open(tmp_path / "a.gif").n_frames == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompt"),
        ([""], "empty"),
        (["word " * 40], "limit is 30"),
        (["cat", "--steps", "0"], "steps is 0"),
        (["cat", "--steps", "257"], "256 tokens"),
        (["cat", "--steps", "many"], "many"),
        (["cat", "--guidance", "inf"], "guidance is inf"),
        (["cat", "--sampler", "purty"], "purity"),
        (["cat", "--precision", "fp8"], "fp8"),
        (["cat", "--model", "emojy"], "did you mean 'emoji'"),
        (["cat", "-n", "0"], "num-images"),
        (["cat", "--fast", "--best"], "the presets fast and best are given: leave out one of them"),
        (["cat", "--preset", "fats"], "unknown preset 'fats': did you mean 'fast'?"),
        (["cat", "-o", "/nowhere/at/all.png"], "/nowhere/at"),
        (["-f", "/nowhere.txt"], "/nowhere.txt"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "cat", "--device", "cuda:99", "-o", str(tmp_path / "x.png")])
    assert "cuda:99" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["denoiser/model.safetensors", "text_encoder/model.safetensors", "model_index.json"])
def test_broken_model_folders_are_named(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = linked_copy(bundled()["emoji"], tmp_path / "broken")
    for damage in (lambda path: overwrite(path, path.read_bytes()[:100]), lambda path: path.unlink()):
        damage(folder / part)
        assert run("cat", "--model", str(folder), "-o", str(tmp_path / "x.png")) == 2
        error = capsys.readouterr().err.strip()
        assert part.split("/")[0] in error
        assert len(error.splitlines()) == 1


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vqdiff", "generate", "苹果", "-n", "500", "-o", str(tmp_path / "x.png")]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stderr is not None
    try:
        assert "no word of the prompt" in process.stderr.readline()  # it is about to draw
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
