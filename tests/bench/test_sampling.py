"""Drawing a tiny model beside diffusers, in processes of their own; the bundled model alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tiny_bench import TINY
from vqdiff.bench.programs import DIFFUSERS, VQDIFF, Repeat, Workload, prompts
from vqdiff.bench.report import Report, check_like
from vqdiff.bench.sampling import SamplingOptions, SamplingSession, bench_bundled, bench_random
from vqdiff.bench.sizes import random_model, write_random
from vqdiff.bench.vqdiff_program import VQDiff, first_picture
from vqdiff.checkpoints import to_diffusers
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.processor import processor
from vqdiff.sampling import SamplingSettings


def ignore(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def report() -> Report:
    options = SamplingOptions(True, "float32", device="cpu", steps=2, batches=(1, 2), starts=0)
    return bench_random("tiny", options, "vqdiff bench", ignore, TINY)


def test_both_programs_are_measured_in_all_settings(report: Report) -> None:
    assert report.programs == ["vqdiff float32", "diffusers float32"]
    works = ["1 image, guided", "1 image, unguided", "2 images, guided"]
    assert list(dict.fromkeys(row.work for row in report.rows)) == works
    for work in works:
        steps = report.find(work, "seconds per step")
        assert [each.count for each in steps.values] == [2, 2]
        assert all(0 < each.low <= each.median for each in steps.values)
        assert steps.ratio is not None
        for name in ("outside the network, % of a step", "of the matrix products' peak, %"):
            assert all(0 < each.median < 100 for each in report.find(work, name).values)
        assert report.find(work, "peak memory beyond the weights in steps, MiB")
    for program in range(2):
        shares = [row.values[program].median for row in report.rows if row.quantity.endswith("% of such an image")]
        assert sum(shares) == pytest.approx(200)  # of two batches
    assert report.find("2 images, guided", "images per second, of 100 such steps").ratio


def test_they_predict_the_same(report: Report) -> None:
    (line,) = (note for note in report.notes if note.startswith("Checked before: log-probabilities differ by at most"))
    assert float(line.split()[-4].removesuffix(",")) < 1e-4


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """The check sees a difference in the null condition alone."""
    model = random_model(TINY)
    model.save(tmp_path / "ours")
    assert model.null_condition is not None
    model.null_condition.embedding.data.neg_()
    to_diffusers.write(model, tmp_path / "theirs")
    tokens, t = np.full((1, 16), 30), 50
    ours = VQDiff(tmp_path / "ours", "float32", "cpu").log_probs(tokens, t)
    from vqdiff.bench.diffusers_program import Diffusers

    theirs = Diffusers(tmp_path / "theirs", "float32", "cpu").log_probs(tokens, t)
    assert check_like(ours[1], theirs[1], 1e-3, "under the prompt")
    with pytest.raises(InputError, match="do not compute the same"):
        check_like(ours, theirs, 1e-3, "log-probabilities")


def test_the_steps_are_spread_over_all_times(tmp_path: Path) -> None:
    folder = write_random(TINY, tmp_path, {VQDIFF: "float32"})[VQDIFF]
    program, times = VQDiff(folder, "float32", "cpu"), list[int]()
    network = program.model.denoiser.network
    features = network.features
    network.features = lambda tokens, t, condition: times.append(int(t[0])) or features(tokens, t, condition)
    drawn = program.draw(Workload(2, SamplingSettings("ancestral", steps=1, guidance=3.0), 4), lambda: None)
    assert times[4::4] == [88, 63, 38, 13]  # after one to warm up
    assert times == [t for t in times[::4] for _ in range(4)]  # two images, guided, one at a time
    assert len(drawn.steps) == len(drawn.network) == 4
    assert len(set(prompts(32))) == 32
    drawn = program.draw(Workload(1, SamplingSettings("strided", steps=5), None), lambda: None)
    assert len(drawn.steps) == 5


@pytest.mark.parametrize("who", [VQDIFF, DIFFUSERS])
def test_the_first_picture_is_a_program(who: str, tmp_path: Path) -> None:
    folder = write_random(TINY, tmp_path, {who: "float32"})[who]
    if who == DIFFUSERS:
        from vqdiff.bench import diffusers_program

        code = diffusers_program.first_picture(folder, "float32", "cpu", tmp_path / "first.png")
    else:
        code = first_picture(folder, "float32", "cpu", tmp_path / "first.png")
    exec(code, {})
    assert (tmp_path / "first.png").stat().st_size > 0


def test_starts_are_whole_processes_and_their_failure_is_ours() -> None:
    bench = SamplingSession("tiny", SamplingOptions(False, device="cpu", starts=2), "", TINY.build("meta"), ignore)
    bench.start_from_cold({VQDIFF: [sys.executable, "-c", "pass"]})
    assert bench.report.find("a new process", "seconds to one image of one step").values[0].count == 2
    with pytest.raises(RuntimeError, match=r"failed:\n(.|\n)*no such thing"):
        bench.start_from_cold({VQDIFF: [sys.executable, "-c", "raise ValueError('no such thing')"]})


def test_the_bundled_model_alone() -> None:
    options = SamplingOptions(True, "float32", device="cpu", steps=1, batches=(1,), starts=0)
    report = bench_bundled(options, "vqdiff bench", ignore, [Repeat(1, 1)])
    assert report.programs == ["vqdiff float32"]
    assert report.find("whole images, warm", "seconds for 1, at default settings").values[0].median > 0
    assert report.find("1 image, unguided", "seconds per step").ratio is None
    assert len(report.markdown().splitlines()[-1].split("|")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ahead_of_diffusers(dtype: str) -> None:
    """A ratio with margin, taken in turn in one run, so that no machine decides it. Raise it with the speed."""
    if dtype == "bfloat16" and processor().bfloat16 is None:
        pytest.skip("bfloat16 has no units here")
    options = SamplingOptions(True, dtype, device="cpu", steps=15, batches=(1,), starts=1)  # type: ignore[arg-type]
    report = bench_random("small", options, "vqdiff bench", ignore)
    steps = report.find("1 image, guided", "seconds per step")
    assert steps.ratio is not None
    assert steps.ratio.median > (1.6 if dtype == "bfloat16" else 1.3), report.markdown()
    outside = report.find("1 image, guided", "outside the network, % of a step")
    assert outside.values[0].median < 5, report.markdown()
    assert report.find("a new process", "seconds to one image of one step").values[1].median > 0
