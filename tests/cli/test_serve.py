"""What ``vqdiff serve`` refuses before it listens; the server itself is tested in tests/serving."""

from __future__ import annotations

import socket

import pytest

from vqdiff import cli


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "99999"], "choose another --host or --port"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--model", "toy=/nowhere"], "no model '/nowhere'"),
        (["--model", "emoji", "--model", "emoji"], "two models have the name 'emoji'"),
        (["--max-images", "0"], "max_images is 0"),
        (["--timeout", "nan"], "timeout is nan"),
        (["--max-rows", "0"], "max_rows is 0"),
        (["--token", ""], "the token is empty"),
    ],
)
def test_mistakes_are_reported_before_anything_is_served(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["serve", "--device", "cpu", *options, *([] if "--port" in options else ["--port", "0"])])
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        cli.main(["serve", "--port", str(taken.getsockname()[1])])
    assert "in use" in capsys.readouterr().err
