"""Terminals that show little, pipes that close, and arguments that are no text: never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from failing_command import failing_command
from picture_sets import numbered, picture, with_metadata
from vqdiff.cli import main

NO_TEXT = os.fsdecode(b"caf\xe9")


def command(*arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "vqdiff", *arguments], os.environ | {"OMP_NUM_THREADS": "1"} | environment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(3).save("a.png")
    with_metadata(tmp_path / "set", numbered(3))
    return tmp_path


@pytest.mark.parametrize("arguments", [["generate", "红苹果", "--steps", "1"], ["data", "check", "other", "--no-time"]])
def test_what_a_terminal_cannot_show_is_replaced(arguments: list[str], folder: Path) -> None:
    if arguments[0] == "data":
        with_metadata(folder / "other", [{"file_name": f"{n}.png", "caption": "红苹果"} for n in range(3)])
    argv, environment = command(*arguments, PYTHONIOENCODING="cp1252")
    done = subprocess.run(argv, env=environment, capture_output=True)
    assert done.returncode == 0
    if arguments[0] == "generate":  # the model does not know the word
        assert done.stderr.count(b"\n") == 1
        assert rb"no word of the prompt '\u7ea2\u82f9\u679c' is known" in done.stderr
    else:
        assert done.stderr == b""
    assert b"???" in done.stdout
    assert (folder / "out.png").exists() == (arguments[0] == "generate")


@pytest.mark.parametrize(
    ("arguments", "unbuffered", "stream", "code"),
    [
        (["info"], "", "stdout", 141),
        (["info"], "1", "stdout", 141),
        (["data", "check", "set", "--no-time"], "", "stdout", 141),
        (["--help"], "", "stdout", 141),
        (["generate", "--help"], "1", "stdout", 141),
        (["generate", ""], "", "stderr", 141),
    ],
    ids=["info", "unbuffered", "check", "help", "of a command", "mistake"],
)
def test_a_pipe_whose_reader_has_gone(
    arguments: list[str], stream: str, code: int, unbuffered: str, folder: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv, environment = command(*arguments, PYTHONUNBUFFERED=unbuffered)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    done = subprocess.run(argv, env=environment, **{stream: writer, other: subprocess.PIPE})  # type: ignore[call-overload]
    os.close(writer)
    assert (done.returncode, getattr(done, other)) == (code, b"")


@pytest.mark.parametrize("closed", [1, 2])
def test_streams_that_are_closed(closed: int, folder: Path) -> None:
    argv, environment = command("data", "check", "set", "--no-time")
    shell = subprocess.run(
        ["sh", "-c", f'"$@" {closed}>&-', "sh", *argv], env=environment, capture_output=True, text=True
    )
    assert shell.returncode == 0
    assert not shell.stderr


def test_a_full_disk_is_one_line(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    argv, environment = command("info")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(argv, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "vqdiff: error: cannot write: No space left on device; free some space\n"


def test_another_pipe_that_breaks_is_our_own_mistake() -> None:
    error = BrokenPipeError("of a worker")
    with failing_command(error) as arguments, pytest.raises(BrokenPipeError, match="of a worker"):
        main(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [NO_TEXT],
        ["generate", NO_TEXT],
        ["generate", "a cat", "--negative", NO_TEXT],
        ["generate", "a cat", "--towards", NO_TEXT],
        ["generate", "a cat", "--model", NO_TEXT],
        ["generate", "a cat", "--device", NO_TEXT],
        ["generate", "a cat", "--sampler", NO_TEXT],
        ["generate", "a cat", "--preset", NO_TEXT],
        ["generate", "--prompts-file", NO_TEXT],
        ["edit", NO_TEXT, "a.png"],
        ["edit", "a.png", "a.png", NO_TEXT],
        ["expand", "a.png", NO_TEXT, "--left", "4"],
        ["vary", "a.png", NO_TEXT],
        ["revise", "a.png", NO_TEXT],
        ["info", NO_TEXT],
        ["convert", NO_TEXT, "-o", "x"],
        ["data", "check", NO_TEXT],
        ["data", "tokens", NO_TEXT, "--model", "emoji", "-o", "x"],
        ["data", "tokens", "set", "--model", NO_TEXT, "-o", "x"],
        ["data", "text-encoder", NO_TEXT, "-o", "x"],
        ["train", "tokenizer", NO_TEXT],
        ["train", "diffusion", NO_TEXT],
        ["train", "scorer", NO_TEXT],
        ["evaluate", NO_TEXT],
        ["study", NO_TEXT],
        ["serve", "--model", NO_TEXT],
        ["bench", "--models", NO_TEXT],
    ],
    ids=" ".join,
)
def test_arguments_that_are_no_text(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(folder.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(arguments)
    err = capfd.readouterr().err
    assert end.value.code == 2
    assert err.startswith("vqdiff: error: ")
    assert err.count("\n") == 1
    assert set(folder.rglob("*")) == before


def test_a_name_that_is_no_text_is_written_all_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "a cat", "--steps", "1", "-o", f"{NO_TEXT}.png", "--device", "cpu"])
    assert capsys.readouterr().out == "caf?.png: 'a cat', seed 0\n"
    assert os.listdir(os.fsencode(folder)).count(b"caf\xe9.png") == 1


@pytest.mark.parametrize("content", ["红苹果\n".encode("gb18030"), "a cat".encode("utf-16")])
def test_prompts_in_another_encoding_are_named(
    content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "-f", "prompts.txt"])
    assert "prompts.txt must be UTF-8 text" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_a_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_bytes(b"\xef\xbb\xbfa cat\r\n")
    main(["generate", "-f", "prompts.txt", "--steps", "1", "--device", "cpu", "--json"])
    assert '"prompts": ["a cat"]' in capsys.readouterr().out
