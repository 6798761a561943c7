"""``vqdiff data`` on the command line."""

from __future__ import annotations

import shutil

import pytest

from vqdiff.cli import main


def test_check_counts(sample, capsys):
    main(["data", "check", str(sample)])
    assert "test_comp: " in capsys.readouterr().out


def test_check_exits_with_2_and_names_the_fault(sample, tmp_path, capsys):
    shutil.copytree(sample, tmp_path / "set", ignore=shutil.ignore_patterns(".cache"))
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(tmp_path / "set")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_emoji_does_not_overwrite(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["data", "emoji", "-o", str(tmp_path)])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_emoji_needs_an_output():
    with pytest.raises(SystemExit) as stop:
        main(["data", "emoji"])
    assert stop.value.code == 2
