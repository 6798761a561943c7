"""Under which names a server answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import client, process, serving, wait_for
from toy_pipelines import toy_pipeline
from vqdiff import cli
from vqdiff.foundation.errors import InputError
from vqdiff.serving.hosts import AllowedHosts


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("a.localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("192.0.2.7", True),
        ("[::1]:8000", True),
        ("[2001:db8::1]", True),
        ("draw.example", True),
        ("Draw.Example.:443", True),
        ("a.b.wide.example", True),
        ("wide.example", False),
        ("evil.example", False),
        ("evil.draw.example", False),
        ("evildraw.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("[::1].evil.example", False),
        ("evil.example:80:80", False),
        ("", False),
    ],
)
def test_names_have_to_be_known_and_addresses_not(host: str, known: bool) -> None:
    assert (host in AllowedHosts(["draw.example", "*.wide.example"])) is known
    assert host in AllowedHosts(["*"])


@pytest.mark.parametrize("name", ["", "http://draw.example", "draw.example:80", "*.", "a*.example", "a b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="the allowed host is"):
        AllowedHosts([name])


def test_a_website_that_resolves_to_this_machine_can_neither_draw_nor_read() -> None:
    with serving(toy_pipeline(), allowed_hosts=["draw.example"]) as (address, engine), client(address) as http:
        _, _, port = address.rpartition(":")
        for name, status in ((f"evil.example:{port}", 403), ("draw.example", 200)):
            headers = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin"}
            for path in ("/v1/models", "/docs", "/metrics"):
                answer = http.get(path, headers=headers)
                assert answer.status_code == status, path
            answer = http.post("/api/draw", json={"prompt": "1"}, headers=headers)
            assert answer.status_code == status
            if status == 403:
                assert "--allowed-host" in answer.json()["error"]["message"]
        assert http.get("/healthz", headers={"Host": "probe.internal"}).status_code == 200
        wait_for(lambda: engine.counts.images == 1)


def test_the_command_tells_of_an_open_door_and_knows_its_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--no-page", "--allowed-host", "draw.example"]
    for host, token, warned in (("0.0.0.0", None, True), ("0.0.0.0", "secret", False), ("127.0.0.1", None, False)):
        more = [] if token is None else ["--token", token]
        with process(tmp_path, *options, "--host", host, *more) as (address, _):
            with client(address.replace("0.0.0.0", "127.0.0.1")) as http:
                asked = {name: http.get("/v1/models", headers={"Host": name}) for name in ("draw.example", "a.example")}
            refused = 401 if token else 200
            assert [one.status_code for one in asked.values()] == [refused, 403]
        printed = capfd.readouterr().err
        assert ("there is no token: all of them can use it; set VQDIFF_TOKEN" in printed) is warned, printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--allowed-host", "http://draw.example"], "the allowed host is 'http://draw.example'"),
        (["--max-connections-per-address", "0"], "--max-connections-per-address is 0: it must be above 0"),
        (["--header-timeout", "0"], "--header-timeout is 0"),
        (["--max-connections", "0"], "--max-connections is 0"),
    ],
)
def test_mistakes_are_reported(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["serve", "--port", "0", *options])
    assert exit.value.code == 2
    assert says in capsys.readouterr().err
