"""Promises of the package as a whole: what imports what, how the command line answers, how files are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vqdiff
from failing_command import failing_command
from vqdiff import cli
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, check_writable

COMMANDS = ["", "generate", "info", "data", "data emoji", "data check", "train", "train tokenizer", "train diffusion"]
COMMANDS += ["data tokens", "train guidance", "train scorer", "evaluate", "study", "serve", "bench", "bench training"]
COMMANDS += ["edit", "expand", "vary", "revise", "redraw", "convert", "export", "push"]
COMMANDS += ["mcp", "samplers", "schema"]
HEAVY = ["torch", "transformers", "numpy", "PIL", "datasets", "pyarrow"]


def python(code: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def imports(code: str, *, after: str = "pass") -> set[str]:
    """Top-level names of the modules that ``code`` imports beyond those of ``after`` and the standard library."""
    lines = ["import sys", after, "before = set(sys.modules)", code, "print(*sys.modules.keys() - before)"]
    return {name.partition(".")[0] for name in python("\n".join(lines)).split()} - sys.stdlib_module_names


# --- imports ----------------------------------------------------------------------------------------------------------


def test_the_mathematics_imports_torch_and_the_standard_library_only() -> None:
    assert imports("from vqdiff.diffusion import Schedule", after="import torch") <= {"vqdiff", "torch"}


def test_importing_the_package_is_free() -> None:
    assert imports("import vqdiff") == {"vqdiff"}


@pytest.mark.parametrize("name", vqdiff.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(vqdiff)
    assert getattr(vqdiff, name)


def test_dir_shows_public_names_only() -> None:
    assert dir(vqdiff) == sorted(vqdiff.__all__)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = vqdiff.lode  # type: ignore[attr-defined]


# --- command line -----------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    python(f"""
import sys
from vqdiff.cli import main
for command in {COMMANDS}:
    main([*command.split(), "--help"])
    assert sys.modules.keys().isdisjoint({HEAVY}), command
""")


def test_help_answers_quickly() -> None:
    """0.3 s is the promise; processor time is what a busy test machine can be held to."""
    code = "import resource; from vqdiff.cli import main; main(['--help']); u = resource.getrusage(0)"
    assert float(python(f"{code}; print(u.ru_utime + u.ru_stime)").split()[-1]) < 0.3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == vqdiff.__version__


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["genrate"], 'Did you mean "generate"?'),
        (["generate", "a red apple", "--stpes", "5"], "--steps"),
        (["generate", "a red apple", "--steps", "many"], '"many"'),
        (["data", "chekc", "x"], 'Did you mean "check"?'),
    ],
)
def test_a_callers_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert exit.value.code == 2
    assert not out
    assert err.startswith("vqdiff: error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(InputError("no prompt; give one"), 2, "vqdiff: error: no prompt; give one\n"), (KeyboardInterrupt(), 130, "")],
)
def test_exit_codes(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with failing_command(error) as arguments, pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == code
    assert capsys.readouterr().err == line


def test_our_own_mistake_keeps_its_traceback() -> None:
    with failing_command(RuntimeError("bug")) as arguments, pytest.raises(RuntimeError, match="bug"):
        cli.main(arguments)


# --- files ------------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_atomic_path_writes_and_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def write_folder(path: Path, **files: str) -> None:
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).write_text(text)


def test_atomic_path_writes_and_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_folder(path, config="one")
    write_folder(path, config="two", weights="three")
    assert (path / "config").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_never_replaces_a_folder_that_holds_other_things(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_folder(path, config="one", diary="dear")
    with pytest.raises(InputError, match="holds diary"):
        write_folder(path, config="two")
    assert (path / "config").read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_keeps_the_name_so_that_formats_are_recognised(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.name == "picture.png"
        temporary.touch()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_all_as_it_was_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "picture.png"
    path.write_text("before")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/picture.png", "file/picture.png", "folder"])
def test_an_unwritable_place_is_the_callers_mistake(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"cannot write .*{place}"):
        write(tmp_path / place, "text")
    with pytest.raises(InputError, match=f"cannot write .*{place}"):
        check_writable(tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_check_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
