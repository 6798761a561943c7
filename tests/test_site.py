"""The site: all that is public is described, links lead somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqdiff.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
MODULES = {
    name: page.stem
    for page in PAGES
    for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    if name != "vqdiff.sampling.samplers.samplers"  # a function that has the name of its module
}
TOOLS = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PATH": TOOLS}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a link that leads nowhere is an error."""
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    subprocess.run(build, check=True, cwd=ROOT, env=ENVIRONMENT)
    return folder


def test_every_public_module_has_a_page() -> None:
    source = ROOT / "src"
    packages = [file for file in source.glob("vqdiff/**/__init__.py") if "\n__all__ = " in file.read_text("utf-8")]
    assert {".".join(file.parent.relative_to(source).parts) for file in packages} <= MODULES.keys()


@pytest.mark.parametrize(("module", "page"), MODULES.items())
def test_every_public_name_is_described(module: str, page: str, site: Path) -> None:
    names = vars(importlib.import_module(module))
    own = [name for name, thing in names.items() if getattr(thing, "__module__", "") == module and name[0] != "_"]
    described = re.findall(r'id="(vqdiff[\w.]*)"', (site / "api" / page / "index.html").read_text("utf-8"))
    assert {f"{module}.{name}" for name in names.get("__all__", own)} <= set(described)


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("api/vqdiff", "../sampling/#vqdiff.sampling.CallSettings"),  # in a signature
        ("api/vqdiff", "#vqdiff.Blend"),  # in a docstring
        ("equations", "../api/diffusion/#vqdiff.diffusion.guide"),
    ],
)
def test_names_link_to_their_descriptions(page: str, link: str, site: Path) -> None:
    assert f'href="{link}"' in (site / page / "index.html").read_text("utf-8")


def commands(parent: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command with its path, also those of groups."""
    for name in parent:
        if not name.startswith("-"):
            yield " ".join((*path, name)), parent[name]
            yield from commands(parent[name], *path, name)


def test_every_option_of_every_command_is_described(site: Path) -> None:
    html = (site / "commands" / "index.html").read_text("utf-8")
    sections = dict(re.findall(r'<h\d id="vqdiff-([\w-]+)">(.*?)(?=<h\d|$)', html, re.DOTALL))
    for path, command in commands(app):
        section = sections[path.replace(" ", "-")]
        options = command.assemble_argument_collection() if command.default_command else ()
        for name in (option.names[0] for option in options):
            assert name in section or not name.startswith("--"), (path, name)


def test_every_command_is_in_the_overview() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert all(f"`vqdiff {path}" in text for path, command in commands(app) if command.default_command)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links of the text apart, no page, style or script names another host to load something from."""
    pattern = re.compile(r"""(?:src|srcset)=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//|url\(["']?https?:""")
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        found = [line for line in file.read_text("utf-8").splitlines() if pattern.search(line)]
        assert not found, (file, found)


def test_notebooks_are_pages_with_their_outputs(site: Path) -> None:
    page = (site / "tutorials" / "edit" / "index.html").read_text("utf-8")
    assert "pipe.expand" in re.sub(r"<[^>]+>", "", page)
    (image, *_) = re.findall(r'src="\.\./(edit-\d+\.png)"', page)
    assert Image.open(site / "tutorials" / image).width >= 128
    assert 'href="../../editing/"' in page


def test_pages_for_language_models(site: Path) -> None:
    """Every page of the navigation is listed and its file is there; the whole text has the options of the commands."""
    listed = re.findall(r"^- \[(.+?)\]\((.+?)\)", (site / "llms.txt").read_text("utf-8"), re.MULTILINE)
    assert len(listed) > 30
    assert all((site / address / "index.html").exists() for _, address in listed)
    assert ("Generate", "generating/") in listed
    text = (site / "llms-full.txt").read_text("utf-8")
    assert "--guidance-interval" in text
    assert "# Edit images" in text


@pytest.mark.slow
def test_versions_of_the_site_are_kept_side_by_side(tmp_path: Path) -> None:
    """What the workflow *docs* does, in a clone."""
    pytest.importorskip("mike", reason="needs the docs extra")

    def run(*command: object) -> str:
        environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "clone" / "src")}
        names = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        cwd = tmp_path / "clone" if (tmp_path / "clone").exists() else ROOT
        return subprocess.run(
            list(map(str, command)), check=True, cwd=cwd, env=environment | names, stdout=subprocess.PIPE, text=True
        ).stdout

    run("git", "clone", "--quiet", ROOT, tmp_path / "clone")
    run("mike", "deploy", "dev")
    run("mike", "deploy", "--update-aliases", "0.1", "latest")
    run("mike", "set-default", "latest")
    versions = json.loads(run("git", "show", "gh-pages:versions.json"))
    assert [(one["version"], one["aliases"]) for one in versions] == [("dev", []), ("0.1", ["latest"])]
    assert "0.1/generating" in run("git", "ls-tree", "-r", "--name-only", "gh-pages")
    assert "latest/" in run("git", "show", "gh-pages:index.html")
