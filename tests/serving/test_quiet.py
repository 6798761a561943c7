"""What a server writes to its log while clients send strange requests: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import client, process
from serving.test_api import bomb, in_base64


def test_a_server_starts_without_a_word_and_clients_cannot_make_it_talk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with process(tmp_path, "--model", "emoji") as (address, server), client(address) as http:
        assert http.get("/").status_code == 200
        for side in (10_000, 12_000, 50_000):  # Pillow warns of the first two, and refuses the third
            assert http.post("/api/draw", json={"image": in_base64(bomb(side))}).status_code == 413
        assert http.post("/api/draw", content=b"{").status_code == 422
        assert http.post("/api/draw", json={"prompt": "1", "seed": 0}).status_code == 200
        unknown = {"model": "emoji", "prompt": "קפה", "steps": 1}
        assert http.post("/api/draw", json=unknown).json()["warnings"]
        assert http.post("/gradio_api/queue/join", json={"fn_index": 9999}).status_code == 404
        assert http.get("/gradio_api/queue/data?session_hash=nobody").status_code == 404
        for asked in ("h2c", "foo/2"):
            headers = {"Connection": "Upgrade", "Upgrade": asked}
            assert http.get("/healthz", headers=headers).json() == {"status": "ok"}
        server.terminate()
        server.wait(30)
    assert capfd.readouterr().err == ""
