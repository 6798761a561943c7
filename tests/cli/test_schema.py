"""``vqdiff schema``: what it says is what the commands, the settings and the server accept."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

import vqdiff
from test_house import COMMANDS
from vqdiff import cli
from vqdiff.foundation.errors import InputError
from vqdiff.settings import SamplingSettings


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    cli.main(["schema", *arguments])
    return json.loads(capsys.readouterr().out)


def test_every_command_and_every_option_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {one["name"]: one for one in printed(capsys, "commands")}
    assert commands.keys() >= {one for one in COMMANDS if one not in ("", "data", "train")}
    options = {one["names"][0]: one for one in commands["generate"]["options"]}
    assert (options["--steps"]["type"], options["--steps"]["default"]) == ("integer", None)
    assert options["--seed"] == {
        "names": ["--seed"], "help": "Image i has seed + i; the same seed, the same image.",
        "type": "integer", "required": False, "default": 0,
    }  # fmt: skip
    assert options["--guidance-schedule"]["enum"] == ["constant", "linear", "cosine", "falling"]
    cli.main(["generate", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in options)
    assert commands["convert"]["options"][0]["required"]


def test_bounds_of_settings_are_those_that_are_enforced(capsys: pytest.CaptureFixture[str]) -> None:
    settings = printed(capsys, "settings")
    for name, one in settings.items():
        value = tuple(one["default"]) if isinstance(one["default"], list) else one["default"]
        SamplingSettings(**{name: value})
        kind = float if one["type"] == "number" else int
        for bound, beyond in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0)):
            if bound in one:
                with pytest.raises(InputError):
                    SamplingSettings(**{name: kind(one[bound] + beyond)})
    assert settings["truncation"]["off"] == 1


def test_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    whole = printed(capsys)
    assert whole["version"] == vqdiff.__version__
    assert whole["samplers"] == vqdiff.samplers()
    assert {"/v1/images/generations", "/api/draw", "/sdapi/v1/txt2img"} <= whole["api"]["paths"].keys()
    fields = whole["api"]["components"]["schemas"]["ImageRequest"]["properties"]
    assert whole["settings"].keys() <= fields.keys()


def test_without_the_server_its_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit) as exit:
        cli.main(["schema", "api"])
    assert exit.value.code == 2
    assert "vqdiff[serve]" in capsys.readouterr().err
