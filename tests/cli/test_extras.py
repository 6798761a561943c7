"""Every command names the extra of a package that is missing, before anything is written."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from golden_cases import GOLDEN
from vqdiff.cli import main
from vqdiff.foundation.extras import EXTRAS

ROOT = Path(__file__).parents[2]
BLOCKING = """
import sys
class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked)
from vqdiff.cli import main
main({arguments})
"""


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("train tokenizer CONFIG", "accelerate", "train"),
        ("train diffusion CONFIG", "tensorboard", "train"),
        ("train guidance CONFIG", "pyarrow", "train"),
        ("train scorer CONFIG", "efficientnet_lite_pytorch", "eval"),
        ("evaluate CONFIG", "accelerate", "eval"),
        ("study CONFIG", "matplotlib", "eval"),
        ("data check OUT/set -o OUT/sheet.png", "pyarrow", "train"),
        ("data tokens OUT/set --model emoji -o OUT/tokens", "filelock", "train"),
        ("data tokens hub:owner/name --model emoji -o OUT/tokens", "datasets", "train"),
        ("data emoji -o OUT/emoji", "resvg_py", "train"),
        ("serve --port 0", "gradio", "serve"),
        ("serve --port 0 --no-page", "fastapi", "serve"),
        ("serve --port 0 --replicas 2", "ray", "ray"),
        ("bench --against diffusers -o OUT/bench", "diffusers", "bench"),
        ("generate cat --model DIFFUSERS -o OUT/cat.png", "transformers", "clip"),
    ],
)
def test_a_missing_package_is_one_line_with_its_extra(command: str, module: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    words = command.replace("CONFIG", "OUT/config.toml").replace("OUT", str(tmp_path))
    words = words.replace("DIFFUSERS", str(GOLDEN / "diffusers" / "pipeline")).split()
    code = BLOCKING.format(module=module, arguments=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vqdiff: error: ")
    assert f"needs the package {module}: pip install 'vqdiff[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_missing_part_of_an_installed_package_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ModuleNotFoundError("No module named 'PIL.nope'", name="PIL.nope")

    monkeypatch.setattr("vqdiff.cli.app", fail)
    with pytest.raises(ModuleNotFoundError):
        main([])


def test_the_table_is_that_of_the_package() -> None:
    """Each module of an extra belongs to a package that pyproject.toml lists for this extra, and none is left out."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {module: {_plain(name) for name in names} for module, names in packages_distributions().items()}
    for extra, modules in EXTRAS.items():
        names = {_plain(line) for line in declared[extra] if not line.startswith("vqdiff[")}
        assert {_package(module, names, packages) for module in modules} == names, extra


def _plain(requirement: str) -> str:
    name = requirement
    for end in "[<>=!; ":
        name = name.partition(end)[0]
    return name.lower().replace("_", "-")


def _package(module: str, names: set[str], packages: dict[str, set[str]]) -> str:
    found = packages.get(module, {module.replace("_", "-")}) & names
    return min(found, default=f"no package of {module}")
