"""The wheel and the source archive: what is in them, and that the wheel works beside nothing but what it requires."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageStat

import vqdiff

ROOT = Path(__file__).parents[2]
LARGEST = 100e6  # bytes of a file that the Python package index takes unasked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both archives; the wheel is made from the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def described(wheel: Path) -> Metadata:
    """The wheel's metadata, held against their specification."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=True)


@pytest.fixture(scope="module")
def place(wheel: Path, described: Metadata, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and, as links to where they are, what it requires without extras."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = sysconfig.get_path("scripts", "venv", {"base": str(folder)}) + "/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for name in required(described.requires_dist or []):
        distribution = metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / part).exists():
                (packages / part).symlink_to(Path(str(distribution.locate_file(part))))
    return folder


def required(requirements: list[Requirement]) -> set[str]:
    """The names of all packages that ``requirements`` come down to on this machine."""
    found, todo = set[str](), list(requirements)
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        applies = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *one.extras))
        if applies and name not in found:
            found.add(name)
            todo += map(Requirement, metadata.requires(name) or [])
    return found


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, away from the repository."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    program = Path(sysconfig.get_path("scripts", "venv", {"base": str(place)})) / command[0]
    words = [str(program), *command[1:]]
    return subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert wheel.stat().st_size < LARGEST


def test_the_source_archive_holds_no_figures_and_no_runs(built: Path) -> None:
    file = next(built.glob("*.tar.gz"))
    assert file.stat().st_size < LARGEST
    with tarfile.open(file) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "pyproject.toml"} <= set(names)
    assert not [name for name in names if name.startswith(("runs/", "data/", "site/", ".venv/"))]
    assert not [name for name in names if name.startswith("docs/") and not name.endswith(".md")]


def test_the_metadata_say_what_the_package_is(described: Metadata) -> None:
    assert (described.name, str(described.version)) == ("vqdiff", vqdiff.__version__)
    assert described.license_expression == "MIT"
    licenses = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("LICENSES/*")} | {"LICENSE", "NOTICE"}
    assert licenses == set(described.license_files or [])
    assert f"Programming Language :: Python :: {sys.version_info.major}.{sys.version_info.minor}" in (
        described.classifiers or []
    )


def test_the_description_has_no_link_that_only_the_repository_resolves(described: Metadata) -> None:
    text = described.description or ""
    assert described.description_content_type == "text/markdown"
    assert text.startswith("# vqdiff")
    assert "pip install vqdiff" in text
    assert re.findall(r"\]\((?!https?:)", text) == []
    assert "![" not in text
    assert "grid.png" not in text  # of a picture's caption


def test_the_version_and_an_import(place: Path) -> None:
    assert run(place, "vqdiff", "--version").stdout.strip() == vqdiff.__version__
    done = run(place, "python", "-c", "import vqdiff; print(vqdiff.__file__); print(*vqdiff.samplers())")
    assert done.stderr == ""
    file, samplers = done.stdout.splitlines()
    assert Path(file).is_relative_to(place)
    assert "purity" in samplers


def test_the_credits_come_with_it(place: Path) -> None:
    assert "Noto Emoji" in run(place, "vqdiff", "info", "--credits").stdout


def test_it_generates_an_image(place: Path) -> None:
    done = run(place, "vqdiff", "generate", "a red apple", "--output", "apple.png", "--precision", "float32")
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(place / "apple.png") as image:
        assert image.size == (128, 128)
        red, green, blue = ImageStat.Stat(image.convert("RGB")).mean
    assert red > max(green, blue)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        ("serve", "serve"),
        ("train tokenizer config.toml", "train"),
        ("train diffusion config.toml", "train"),
        ("evaluate config.toml", "eval"),
        ("study config.toml", "eval"),
        ("data emoji -o set", "train"),
        ("bench --against diffusers", "bench"),
        (f"info {ROOT / 'tests/golden/checkpoints/text_base.pth'}", "clip"),
    ],
)
def test_what_needs_an_extra_says_so_in_a_line(place: Path, arguments: str, extra: str) -> None:
    done = run(place, "vqdiff", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"vqdiff: error: .*pip install 'vqdiff\[{extra}\]'.*\n", done.stderr)
