"""Where images go: files by their suffix, folders, standard output; what is printed."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqdiff.cli import main
from vqdiff.foundation.formats import read_record
from vqdiff.foundation.options import options_of
from vqdiff.plugins import SAMPLERS
from vqdiff.settings import SamplingSettings


def run(*arguments: str) -> int:
    try:
        main(["generate", *arguments, "--steps", "1", "--device", "cpu"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_folder_has_a_file_of_each_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("# three\na cat\n\n  # and\nCON\n", encoding="utf-8")
    assert run("-f", "prompts.txt", "-n", "2", "-o", "new/pictures/", "--format", "webp", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    made = sorted(path.name for path in Path("new/pictures").iterdir())
    assert made == ["000-a-cat-0.webp", "001-a-cat-1.webp", "002-CON-2.webp", "003-CON-3.webp"]
    for record, name in zip(records, made, strict=True):
        output = record.pop("output")
        assert (output, record) == (f"new/pictures/{name}", read_record(Path(output)))
    assert [(one["prompt"], one["seed"]) for one in records] == [("a cat", 0), ("a cat", 1), ("CON", 2), ("CON", 3)]
    assert run("CON", "--seed", "3", "-o", "alone.webp") == 0
    with Image.open("alone.webp") as alone, Image.open("new/pictures/003-CON-3.webp") as one:
        assert alone.tobytes() == one.tobytes()
    # A folder that exists needs no slash, and none of its files is replaced.
    before = {path: path.read_bytes() for path in Path("new/pictures").iterdir()}
    assert run("a cat", "-o", "new/pictures", "--format", "webp", "--name", "000-{prompt}-0") == 0
    after = {path: path.read_bytes() for path in Path("new/pictures").iterdir()}
    assert before.items() < after.items()
    assert {path.name for path in after.keys() - before.keys()} == {"000-a-cat-0-2.webp"}
    assert main(["redraw", "new/pictures/001-a-cat-1.webp"]) is None


def test_what_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a red apple", "-n", "3", "-o", "list.png") == 0
    assert run("a cat", "a dog", "-o", "pictures/") == 0
    assert capsys.readouterr().out == (
        "list.png: 3 images of 'a red apple', seeds 0 to 2\npictures/: 2 images of 'a cat', 'a dog', seeds 0 to 1\n"
    )
    assert run("קפה", "-o", "quiet.png", "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.gif"], "an animation is written by --gif"),
        (["-o", "x.bmp"], "its name ends in .bmp"),
        (["-o", "x"], "its name has no suffix"),
        (["-o", "x.png", "--gif", "y.png"], "end its name in .gif"),
        (["-o", "x.png", "--confidence", "y.gif"], "an animation is written by --gif"),
        (["-o", "x.png", "--format", "webp"], "--format is for folders"),
        (["-o", "x/", "--format", "bmp"], "unknown format 'bmp'"),
        (["-o", "x/", "--name", "{label}"], "unknown field in --name 'label'"),
        (["-o", "/proc/no/x/"], "cannot write"),
        (["-o", "x.png", "--truncation", "0"], "truncation is 0:"),
        (["--like", "none.png"], "cannot read the image none.png: No such file"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_drawn(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a cat", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_broken_prompt_creates_no_folder(folder: Path) -> None:
    assert run("", "-o", "pictures/") == 2
    assert not list(folder.iterdir())


def test_standard_output(folder: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a cat\n# no\n红苹果\n".encode()), encoding="utf-8"))
    assert run("a dog", "-", "-o", "-", "--format", "jpg") == 0
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, image.size) == ("JPEG", (400, 136))
    assert err.decode().splitlines()[-1] == "-: 3 images of 'a dog', 'a cat', '红苹果', seeds 0 to 2"
    assert not list(folder.iterdir())


def test_prompts_from_standard_input(folder: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\r\n#\r\n"), encoding="utf-8"))
    assert run("--prompts-file", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == ["a cat"]


def test_a_terminal_gets_no_image(folder: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("a cat", "-o", "-") == 2
    assert "standard output is a terminal" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(folder: Path) -> None:
    command = [sys.executable, "-m", "vqdiff", "generate", "a cat", "-n", "5000", "--steps", "1", "--batch-size", "1"]
    process = subprocess.Popen(
        [*command, "-o", "pictures/"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        limit = time.monotonic() + 120
        while len(list(folder.glob("pictures/*.png"))) < 3 and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    files = sorted(path.name for path in folder.glob("pictures/*"))
    assert process.returncode == 130
    assert len(files) >= 3
    assert files == [f"{i:03}-a-cat-{i}.png" for i in range(len(files))]
    assert f"has {len(files)} of 5000 images" in error
    for name in files:
        assert read_record(folder / "pictures" / name)["kind"] == "generate"


def test_help_names_samplers_and_the_models_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    described = options_of(SamplingSettings)["sampler"].help
    ours = {name for name in SAMPLERS.names() if type(SAMPLERS.get(name)).__module__.startswith("vqdiff.")}
    assert set(described.removeprefix("How to sample: ").split(", or ")[0].split(", ")) == ours
    main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for value in ("purity", "16", "2", "constant", "0 1", "0.9"):
        assert f"[default: the model's own; emoji: {value}]" in shown


def test_a_sampler_is_described_with_what_it_uses(capsys: pytest.CaptureFixture[str]) -> None:
    main(["samplers", "entropy-bound"])
    shown = capsys.readouterr().out
    assert {"--steps", "--error", "--prior-scale"} < set(shown.split())
    assert "--curve" not in shown
    assert "https://arxiv.org/abs/2505.24857" in shown
    main(["samplers", "entropy-bound", "--json"])
    assert "error" in json.loads(capsys.readouterr().out)["entropy-bound"]["uses"]
    with pytest.raises(SystemExit):
        main(["samplers", "entropy-bond"])
    assert "did you mean 'entropy-bound'?" in capsys.readouterr().err


def test_a_setting_that_the_sampler_does_not_use_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    main(["generate", "a cat", "--steps", "2", "--sampler", "strided", "--prior-scale", "3", "-o", "cat.png"])
    assert "vqdiff: warning: the sampler strided does not use prior_scale; " in capsys.readouterr().err
    main(["generate", "--like", "cat.png", "-o", "again.png"])
    assert capsys.readouterr().err == ""
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()


@pytest.mark.parametrize("option", ["steps", "seed", "batch-size"])
def test_whole_numbers_are_not_rounded(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "a cat", f"--{option}", "2.5"])
    assert f'Invalid value for --{option}: unable to convert "2.5" into int' in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(
    shell: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    main(["--install-completion", "--shell", shell, "--output", "script"])
    script = Path("script").read_text(encoding="utf-8")
    assert all(name in script for name in ("generate", "redraw", "tokenizer", "guidance-schedule"))
    assert str(folder) in "".join(capsys.readouterr()).replace("\n", "")


def test_colours_are_left_out_on_request() -> None:
    def shown(**environment: str) -> bytes:
        parent, child = pty.openpty()
        command = [sys.executable, "-m", "vqdiff", "info", "--help"]
        subprocess.run(command, env=os.environ | {"TERM": "xterm-256color"} | environment, stdout=child, check=True)
        os.close(child)
        out = b""
        with open(parent, "rb", buffering=0) as reader:
            try:
                while part := reader.read(65536):
                    out += part
            except OSError:  # Linux, at the end
                pass
        return out

    plain = shown(NO_COLOR="1")
    assert b"Usage" in plain
    assert b"\x1b[3" not in plain
    assert b"\x1b[3" in shown()
