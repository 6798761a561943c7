"""The Python of README and docs works as it stands, page by page, and so do the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import vqdiff
from servers import running
from vqdiff.cli import main
from vqdiff.data import tokenize
from vqdiff.pipeline import Pipeline
from vqdiff.serving.api import create_app
from vqdiff.serving.connections import ConnectionLimits, config_of
from vqdiff.serving.engine import Engine

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SERVED = ("serving.md", "integrations.md")
MARKS = {"integrations.md": pytest.mark.slow}  # it starts a server of tools; all that it shows has tests of its own
ELSEWHERE = {"extending.md": "tests/test_extending.py", "migrating.md": "needs the published files"}


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if python_of(page)]


@pytest.fixture
def names(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has before the first line of a page: a model, an image and a mask, images to train on, a server."""
    monkeypatch.chdir(tmp_path)
    image, mask = Image.new("RGB", (128, 128), "white"), Image.new("L", (128, 128), 0)
    ImageDraw.Draw(image).ellipse((24, 24, 104, 104), fill=(200, 30, 40))
    ImageDraw.Draw(mask).rectangle((64, 16, 127, 111), fill=255)
    alpha = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    alpha.paste((0, 0, 0, 0), (64, 16, 128, 112))
    alpha.save("mask.png")
    return {"__name__": "page", "vqdiff": vqdiff, "pipe": pipe, "image": image, "mask": mask}


@pytest.mark.parametrize("page", [pytest.param(one, marks=MARKS.get(one.name, ()), id=one.name) for one in PAGES])
def test_python_of_a_page(page: Path, names: dict[str, Any], pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in ELSEWHERE:
        pytest.skip(ELSEWHERE[page.name])
    program = "\n".join(python_of(page))
    if page.name == "data.md":
        shutil.copytree(ROOT / "tests" / "fixtures" / "emoji-sample", "my-pictures")
        tokenize("my-pictures", "train", pipe.model.image_tokenizer, Path("my-tokens"))
    if page.name == "generating.md":
        main(["generate", "a red apple", "--steps", "2", "-o", "apple.png", "--quiet"])
    if page.name == "integrations.md":
        (Path.cwd() / "extras").symlink_to(ROOT / "extras", target_is_directory=True)
        monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(Path.cwd() / "modules"))
    if page.name in SERVED:
        engine = Engine()
        with running(config_of(create_app({"emoji": pipe}, engine), ConnectionLimits(), stop_timeout=5)) as (
            address,
            _,
        ):
            exec(compile(program.replace("http://127.0.0.1:8000", address), str(page), "exec"), names)
    else:
        exec(compile(program, str(page), "exec"), names)


def run(*arguments: object, folder: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_train_and_sample(tmp_path: Path) -> None:
    changes = ["run.steps=4", "run.preview_every=4", "run.warmup=1", "evaluate=8"]
    run(EXAMPLES / "train_and_sample.py", tmp_path / "digits", *changes, folder=tmp_path)
    assert Image.open(tmp_path / "digits" / "samples.png").width > 5 * 32
    runs = [tmp_path / "digits" / name for name in ("tokenizer", "diffusion")]
    run(ROOT / "docs" / "figures" / "plot_log.py", tmp_path / "curves.png", *runs, folder=tmp_path)
    assert (tmp_path / "curves.png").exists()


def test_serve_and_call(tmp_path: Path) -> None:
    run(EXAMPLES / "serve_and_call.py", tmp_path / "apple.png", folder=tmp_path)
    assert Image.open(tmp_path / "apple.png").size == (128, 128)


def test_joint_distribution(tmp_path: Path) -> None:
    run(EXAMPLES / "joint_distribution.py", "--output", tmp_path / "plot.png", folder=tmp_path)
    assert (tmp_path / "plot.png").exists()
