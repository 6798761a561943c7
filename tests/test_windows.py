"""What differs on Windows, as far as another system can act it: encodings, line ends, separators, names, open files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from picture_sets import picture, shades
from vqdiff import cli
from vqdiff.data import load
from vqdiff.foundation import files
from vqdiff.foundation.config import read_config
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path, check_writable
from vqdiff.training.denoiser_settings import DiffusionTraining


def test_where_the_system_writes_another_encoding_files_are_utf_8(tmp_path: Path) -> None:
    """As with cp1252: the locale's encoding, which an open() without one would use, has no é."""
    (tmp_path / "prompts.txt").write_bytes("a café\r\na pêche\r\n".encode())
    old = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", "import locale; print(locale.getpreferredencoding())"],
        env=os.environ | old,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "utf" not in finished.stdout.lower()
    arguments = ["generate", "--prompts-file", "prompts.txt", "--steps", "1", "--precision", "float32", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vqdiff", *arguments],
        env=os.environ | old,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"caf" in done.stdout
    assert b"\\r" not in done.stdout
    assert (tmp_path / "out.png").is_file()


def test_tables_with_line_ends_and_separators_of_windows(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    (folder / "drawings").mkdir(parents=True)
    for number in range(3):
        picture(number).save(folder / "drawings" / f"{number}.png")
    lines = ["file_name,caption", *(rf'drawings\{number}.png,"number {number}, naïve"' for number in range(3))]
    (folder / "metadata.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    pictures = load(tmp_path, "train", 16)
    assert len(pictures.captions) >= 2
    assert [list(captions) for captions in pictures.captions] == [[f"number {one}, naïve"] for one in shades(pictures)]


def test_a_configuration_with_line_ends_of_windows(tmp_path: Path) -> None:
    text = 'data = "set"\noutput = "run"\nimage_tokenizer = "tokenizer"\nprompts = ["a café"]\n'
    text += "[run]\nsteps = 7\nbatch_size = 2\nlearning_rate = 1e-3\n"
    (tmp_path / "config.toml").write_bytes(text.replace("\n", "\r\n").encode())
    config = read_config(DiffusionTraining, tmp_path / "config.toml")
    assert (config.run.steps, list(config.prompts)) == (7, ["a café"])


@pytest.mark.parametrize("name", ["aux.png", "CON", "nul.tar.gz", "com1", "a.png.", "b ", "what?.png", "a:b.png"])
def test_names_that_windows_reserves_are_refused_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / name)
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    with (
        pytest.raises(InputError, match="Windows reserves this name; choose another") as refused,
        atomic_path(tmp_path / name),
    ):
        pass
    assert "\n" not in str(refused.value)
    check_writable(tmp_path / "auxiliary.png")
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_program_has_open_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_text("before", encoding="utf-8")

    def denied(source: object, target: object) -> None:
        raise PermissionError(13, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", denied)
    says = r"cannot write .*out\.png: The process cannot access the file"
    with pytest.raises(InputError, match=says), atomic_path(path) as new:
        new.write_text("after", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_no_record_of_a_model_holds_a_separator_of_this_system() -> None:
    """What reads a file of Windows on another system, or the other way round, finds the same names."""
    source = Path(cli.__file__).parents[1]
    guilty = [
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if "relative_to(" in line and "is_relative_to" not in line and "as_posix" not in line and ".parts" not in line
    ]
    assert guilty == [], "write relative paths with as_posix()"
