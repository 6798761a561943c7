"""A budget of seconds: how many steps are planned, and what happens if they take longer."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image

from toy_pipelines import toy_pipeline
from vqdiff.budget import Pace, measure
from vqdiff.cli import main
from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.formats import encode, read_record
from vqdiff.requests import DrawRequest
from vqdiff.sampling import Batch, SamplingSettings, run


def test_as_many_steps_as_fit() -> None:
    pace = Pace(step=0.25, decoding=0.125)
    assert [pace.steps(seconds, 6) for seconds in (0.375, 0.8, 0.875, 100.0)] == [1, 2, 3, 6]
    with pytest.raises(InputError, match=r"one step takes 0.250 s and decoding 0.125 s"):
        pace.steps(0.3, 6)


@pytest.mark.parametrize("sampler", ["entropy-bound", "purity", "strided", "corrected", "renoised"])
def test_a_run_that_takes_longer_ends_a_step_later_at_most(sampler: str) -> None:
    """A step takes 20 ms and more: of fifty, the first alone says so, and the run ends with all tokens there."""

    def slow(tokens: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return torch.zeros(len(tokens), 64, 5)

    settings = SamplingSettings(sampler, steps=50, guidance=1.0)
    batch = Batch.start(Schedule.mask_only(100, 5), num_tokens=64, seeds=[3, 4], settings=settings)
    start = time.monotonic()
    frames = list(run(batch, slow, seconds=0.2))
    taken, slowest = time.monotonic() - start, 0.2 / len(frames)
    assert 2 <= len(frames) <= 10
    assert frames[-1].steps == len(frames)
    assert frames[-1].tokens.max() < 5
    assert taken < 0.2 + 10 * slowest
    assert len(list(run(batch, slow, seconds=600.0))) == 50
    *_, again = run(batch, lambda tokens, t: torch.zeros(len(tokens), 64, 5), calls=len(frames))
    assert torch.equal(again.tokens, frames[-1].tokens)


def test_the_pace_is_for_all_images() -> None:
    pipe = toy_pipeline(steps=4)
    one, many = (
        measure(pipe, DrawRequest(prompts=1, num_images=count).job(pipe.model), batch_size=1) for count in (1, 30)
    )
    assert 0 < one.step < many.step
    assert 0 < one.decoding < many.decoding
    certain = pipe.settings(sampler="entropy-bound", truncation=0.01, guidance=1.0)  # all is revealed in one step
    assert measure(pipe, DrawRequest(prompts=1, settings=certain).job(pipe.model)).step > 0
    for sampler in ("ancestral", "reference-purity"):
        given = DrawRequest(prompts=1, settings=pipe.settings(sampler=sampler))
        with pytest.raises(InputError, match=f"the sampler {sampler} cannot end early"):
            measure(pipe, given.job(pipe.model))
    with pytest.raises(InputError, match="best_of is 2"):
        measure(pipe, DrawRequest(prompts=1, settings=pipe.settings(best_of=2)).job(pipe.model))


@pytest.mark.parametrize("sampler", ["entropy-bound", "purity", "strided"])
def test_images_that_ended_early_are_made_again(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a clock of one second per step, 9.99 s and more are over after 7 of them, and 4.99 s after the first."""
    toy_pipeline().save(tmp_path / "toy")
    monkeypatch.setattr("vqdiff.sampling.loop.monotonic", map(float, count()).__next__)
    model = ["--model", str(tmp_path / "toy")]
    words = ["generate", "--label", "1", *model, "--device", "cpu", "-n", "2", "--sampler", sampler]
    words += ["--quiet", "--budget", "10", "--error", "1.5"]
    for batch_size, expected in ((1, 2), (8, 8)):
        grid, folder = tmp_path / f"{batch_size}.png", tmp_path / f"{batch_size}"
        main([*words, "-o", str(grid), "--batch-size", str(batch_size)])
        main([*words, "-o", f"{folder}/", "--batch-size", str(batch_size)])
        for path in (grid, *folder.iterdir()):
            record = read_record(path)
            assert (record["budget"], record["network_calls"]) == (10, expected)
            main(["redraw", str(path), *model])
            assert "the same, bit for bit" in capsys.readouterr().out


def test_each_image_of_a_grid_has_its_own_network_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_pipeline().save(tmp_path / "toy")
    model, grid, folder = ["--model", str(tmp_path / "toy")], tmp_path / "grid.png", tmp_path / "each"
    words = ["generate", "--label", "1", *model, "--device", "cpu", "--precision", "float32", "-n", "6"]
    for output in (str(grid), f"{folder}/"):
        main([*words, "--batch-size", "1", "--budget", "600", "--error", "10", "-o", output])
    calls = read_record(grid)["network_calls"]
    assert calls == [read_record(path)["network_calls"] for path in sorted(folder.iterdir())]
    assert len(set(calls)) > 1
    capsys.readouterr()
    main(["redraw", str(grid), *model])
    assert "the same, bit for bit" in capsys.readouterr().out
    for lost in ([1, 2], [1, 2, 3, 4, 5, "6"], None):
        with Image.open(grid) as image:
            content = encode(image, read_record(grid) | {"network_calls": lost}, "png")
        (tmp_path / "lost.png").write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            main(["redraw", str(tmp_path / "lost.png"), *model])
        assert f"the record is not complete: its network_calls are {lost}" in capsys.readouterr().err


def test_the_command_says_what_was_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_pipeline().save(tmp_path / "toy")
    image = tmp_path / "one.png"
    words = ["generate", "--label", "1", "--model", str(tmp_path / "toy"), "--device", "cpu", "-o", str(image)]
    main([*words, "--budget", "30"])
    assert " s of 30 s, for at most " in capsys.readouterr().err
    record = read_record(image)
    assert record["sampler"] == toy_pipeline().model.sampling.sampler
    assert record["steps"] == toy_pipeline().model.num_tokens  # there was time for all
    for more, sampler in (
        (["--sampler", "strided"], "strided"),
        (["--error", "2"], "entropy-bound"),
        (["--preset", "imagenet-guided"], "purity"),  # of 100 steps, more than there are tokens
    ):
        main([*words, "--budget", "30", *more])
        assert read_record(image)["sampler"] == sampler
    assert "warning" not in capsys.readouterr().err
    own = replace(toy_pipeline().model, sampling=SamplingSettings("ancestral", steps=20))  # no number of steps
    own.save(tmp_path / "ancestral")
    words[words.index("--model") + 1] = str(tmp_path / "ancestral")
    main([*words, "--budget", "30"])
    assert read_record(image)["sampler"] == "purity"
    for more, says in (
        (["--budget", "1e-7"], "the budget is 1e-07 s, and one step takes"),
        (["--budget", "0"], "--budget is 0: give seconds above 0"),
        (["--budget", "nan"], "--budget is nan"),
        (["--budget", "1", "--steps", "3"], "--budget does not go with --steps"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main([*words, *more])
        assert says in capsys.readouterr().err
