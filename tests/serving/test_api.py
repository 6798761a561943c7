"""The HTTP API on loopback: what it draws, what it refuses, and with which words."""

from __future__ import annotations

import base64
import io
import json
import logging
import pickle
import re
import secrets
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image, ImageDraw

from servers import client, serving, wait_for
from toy_pipelines import POISON, Gate, toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.serving.api import create_app
from vqdiff.serving.engine import Engine
from vqdiff.serving.limits import Limits

LIMITS = Limits(
    max_body=200_000,
    max_prompt=50,
    max_images=4,
    max_steps=32,
    max_image_bytes=50_000,
    max_image_pixels=256**2,
    timeout=30.0,
)


def png(size: tuple[int, int] = (32, 32), mode: str = "RGB", holes: tuple[int, ...] | None = None) -> bytes:
    image = Image.effect_noise(size, 50).convert(mode)
    if holes is not None:
        ImageDraw.Draw(image).rectangle(holes, fill=(0, 0, 0, 0))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


# --- OpenAI's client --------------------------------------------------------------------------------------------------


def test_openai_generates(server: tuple[str, Any], ai: openai.OpenAI) -> None:
    answer = ai.images.generate(prompt="2", n=2, size="32x32", response_format="b64_json", extra_body={"seed": 5})
    assert answer.data is not None
    images = [picture(one.b64_json or "") for one in answer.data]
    wanted = server[1]("2", num_images=2, seed=5)
    assert [one.convert("RGB").tobytes() for one in images] == [one.tobytes() for one in wanted]
    record = json.loads(images[1].info["vqdiff"])
    assert (record["prompt"], record["seed"], record["sampler"]) == ("2", 6, "purity")
    assert [one.id for one in ai.models.list()] == ["toy0", "toy1"]


def test_openai_edits(server: tuple[str, Any], ai: openai.OpenAI) -> None:
    image, mask = png(), png(mode="RGBA", holes=(0, 0, 15, 20))
    answer = ai.images.edit(image=image, mask=mask, prompt="1", extra_body={"seed": 3, "steps": 2})
    assert answer.data is not None
    white = Image.new("L", (32, 32))
    ImageDraw.Draw(white).rectangle((0, 0, 15, 20), fill=255)
    wanted = server[1].edit(Image.open(io.BytesIO(image)), white, "1", seed=3, steps=2)
    assert picture(answer.data[0].b64_json or "").convert("RGB").tobytes() == wanted.tobytes()
    own = ai.images.edit(image=mask, prompt="1")  # without a mask the image's own transparency counts
    assert own.data is not None
    with pytest.raises(openai.BadRequestError, match="transparent part"):
        ai.images.edit(image=image, prompt="1")


def test_openai_receives_what_is_wrong(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="this model generates 32x32"):
        ai.images.generate(prompt="2", size="1024x1024")
    with pytest.raises(openai.NotFoundError, match="choose one of toy0, toy1"):
        ai.images.generate(prompt="2", model="../../etc/passwd")
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ai.images.generate(prompt="2", response_format="file")  # type: ignore[call-overload]


# --- the native endpoint ----------------------------------------------------------------------------------------------


def test_native_draws_as_the_pipeline_does(server: tuple[str, Any], http: httpx.Client) -> None:
    pipe, content = server[1], png((40, 20))
    image, mask = Image.open(io.BytesIO(content)), Image.new("L", (40, 20), 255)
    mask.paste(0, (0, 0, 20, 20))
    file = io.BytesIO()
    mask.save(file, format="PNG")
    sent = {"image": in_base64(content), "seed": 4, "steps": 3, "prompt": "1"}
    asked = {"seed": 4, "steps": 3}
    cases = [
        ({"prompt": "1", "seed": 4, "steps": 3, "negative": "2", "guidance": 2.0, "truncation": 0.9},
         pipe("1", negative="2", guidance=2.0, truncation=0.9, **asked)[0]),
        (sent | {"mask": in_base64(file.getvalue()), "feather": 3}, pipe.edit(image, mask, "1", feather=3, **asked)),
        (sent | {"strength": 0.4, "sampler": "strided"}, pipe.vary(image, 0.4, "1", sampler="strided", **asked)[0]),
        (sent | {"share": 0.3}, pipe.revise(image, 0.3, "1", **asked)),
    ]  # fmt: skip
    for body, wanted in cases:
        answer = http.post("/api/draw", json=body)
        assert answer.status_code == 200, answer.text
        found = picture(answer.json()["data"][0]["b64_json"])
        assert found.convert("RGB").tobytes() == wanted.tobytes()
        assert "share" not in body or json.loads(found.info["vqdiff"])["sampler"] == "token-fixing"
    for given in ({"preset": "fast"}, {"preset": "fast", "steps": 3}, {"preset": "best", "sampler": "halton"}):
        answer = http.post("/api/draw", json={"prompt": "1", "seed": 4} | given).json()
        image = picture(answer["data"][0]["b64_json"])
        wanted = pipe("1", seed=4, **given)[0]
        assert image.convert("RGB").tobytes() == wanted.tobytes()
        assert json.loads(image.info["vqdiff"])["steps"] == pipe.settings(**given).steps
    refused = http.post("/api/draw", json={"prompt": "1", "guidance": 2.0, "guide": "weaker"})
    assert refused.status_code == 400
    assert "this model has no weaker denoiser" in refused.json()["error"]["message"]
    free = http.post("/api/draw", json={"model": "toy1", "guidance_schedule": "linear"}).json()
    assert 0 <= free["data"][0]["seed"] < 2**32  # a random one


def test_events_end_with_the_pictures(http: httpx.Client) -> None:
    body = {"prompt": "1", "n": 2, "seed": 4, "steps": 12, "stream": True}
    with http.stream("POST", "/api/draw", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = read_events(answer)
    plain = http.post("/api/draw", json=body | {"stream": False}).json()
    assert events[-1][0] == "done"
    assert events[-1][1]["data"] == plain["data"]
    progress = [data["done"] for name, data in events if name == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 24
    previews = [data for name, data in events if name == "preview"]
    assert previews
    assert picture(previews[0]["b64_json"]).size == (32, 32)
    assert previews[0]["steps"] == 12
    wrong = http.post("/api/draw", json=body | {"steps": 99})
    assert wrong.status_code == 400  # not an event: nothing has begun


def read_events(answer: httpx.Response) -> list[tuple[str, Any]]:
    blocks = [one for one in answer.read().decode().strip().split("\n\n") if not one.startswith(":")]  # comments
    return [(name[7:], json.loads(data[6:])) for name, data in (block.split("\n") for block in blocks)]


def test_the_server_tells_of_itself(http: httpx.Client) -> None:
    models = http.get("/api/models").json()
    assert models["models"]["toy0"] | {"settings": 0} == {
        "draws": "labels", "image_size": 32, "num_tokens": 64, "settings": 0, "classes": [],
        "presets": {"fast": {"steps": 2}, "best": {"steps": 8}},
    }  # fmt: skip
    assert "purity" in models["samplers"]
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    page = http.get("/docs").text
    assert "//" not in page.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert http.get(link).status_code == 200
    http.post("/api/draw", json={"prompt": "1"})
    metrics = http.get("/metrics").text
    assert 'vqdiff_requests_total{endpoint="/api/draw",status="200"}' in metrics
    assert "vqdiff_running_images 0.0" in metrics
    assert "vqdiff_images_total" in metrics


# --- limits -----------------------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that says it has side × side pixels."""
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = (len(c).to_bytes(4, "big") + n + c + zlib.crc32(n + c).to_bytes(4, "big") for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": "x" * 51}, 400, "51 characters, the limit is 50"),
        ({"prompt": "1", "negative": "x" * 51}, 400, "51 characters"),
        ({"prompt": "1", "towards": "x" * 51}, 400, "51 characters"),
        ({"prompt": "1", "n": 5}, 400, "1 to 4 images"),
        ({"prompt": "1", "n": 0}, 400, "n is 0"),
        ({"prompt": "1", "steps": 33}, 400, "1 to 32"),
        ({"prompt": "1", "sampler": "purify"}, 400, "did you mean"),
        ({"model": "toy1", "curve": "measured"}, 400, "curve is measured, and this model has no measurement"),
        ({"prompt": "1", "preset": "fats"}, 400, "did you mean 'fast'"),
        ({"prompt": "1", "preset": 3}, 422, "preset"),
        ({"prompt": "99"}, 400, "labels run from 0 to 4"),
        ({"prompt": "a cat"}, 400, "labels 0 to 4"),
        ({}, 400, "no prompt"),
        ({"prompt": "1", "model": "toy0/.."}, 404, "toy0, toy1"),
        ({"prompt": "1", "modle": "toy0"}, 422, "modle"),
        ({"prompt": "1", "guidance": 1e9}, 400, "guidance"),
        ({"prompt": "1", "seed": 2**63}, 400, "9223372036854775807"),
        ({"prompt": "1", "prior_scale": False}, 422, "prior_scale"),
        ({"prompt": "1", "n": "2"}, 422, "n is '2'"),
        ({"prompt": "1", "mask": "AAAA"}, 400, "give an image"),
        ({"image": "AAAA", "share": 0.5, "strength": 0.5}, 400, "two ways"),
        ({"image": "AAAA", "share": 0.5, "n": 2}, 400, "one image"),
        ({"image": "A*"}, 400, "base64"),
        ({"image": "AAAA"}, 400, "cannot be read as an image"),
        ({"image": in_base64(png()[:-40])}, 400, "cannot be read as an image"),
        ({"image": in_base64(bytes(50_001))}, 413, "50001 bytes, the limit is 50000"),
        ({"image": in_base64(bomb(5000))}, 413, "longest side may have 256"),
        ({"image": in_base64(bomb(50_000))}, 413, "bomb"),
        ({"image": in_base64(png((257, 1)))}, 413, "257×1 pixels"),
        ({"image": in_base64(png((8, 8))), "mask": in_base64(png((9, 9)))}, 400, "give a mask of that size"),
        ({"prompt": "x" * 250_000}, 413, "larger than 200000 bytes"),
    ],
)  # fmt: skip
def test_limits_say_what_and_how_much(http: httpx.Client, body: Any, status: int, says: str) -> None:
    answer = http.post("/api/draw", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_presets_are_within_the_limits(server: tuple[str, Pipeline], http: httpx.Client) -> None:
    model = server[1].model
    model.presets = {"slow": {"steps": 40}, "many": {"best_of": 9}}
    try:
        for name, says in (("slow", "steps is 40: give 1 to 32"), ("many", "best_of is 9: give 1 to 8")):
            answer = http.post("/api/draw", json={"prompt": "1", "preset": name})
            assert (answer.status_code, answer.json()["error"]["message"]) == (400, says)
            assert answer.json()["error"]["param"] == "preset"
    finally:
        model.presets = {}


def test_a_body_without_a_length_is_counted_as_it_comes(http: httpx.Client) -> None:
    answer = http.post("/api/draw", content=(b" " * 10_000 for _ in range(30)))
    assert answer.status_code == 413


def test_odd_bodies_and_paths(http: httpx.Client) -> None:
    bodies = [
        b"{",
        b"[" * 50_000,
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "1", "sampler": "\\ud800"}',
        b'{"prompt": "1", "size": "\\ud800"}',
        b'{"prompt": "1", "\\ud800": 1}',
        b'{"prompt": "1", "towards": "\\ud800"}',
        b'{"prompt": "1", "guidance": NaN}',
        b"null",
        b"",
    ]
    for body in bodies:
        answer = http.post("/api/draw", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 404, 422), (body[:20], answer.text)
        assert answer.json()["error"]["message"]
    assert http.get("/nowhere").json()["error"]["message"] == "Not Found"
    assert http.put("/api/draw").status_code == 405
    preflight = http.options("/api/draw", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers


def test_a_token_is_required() -> None:
    with serving(toy_pipeline(), token="söcret") as (address, _), client(address) as http:
        for header in (None, "Bearer wrong", "Basic söcret", "Bearer", "söcret"):
            headers = {} if header is None else {"Authorization": header.encode()}
            answer = http.post("/api/draw", json={"prompt": "1"}, headers=headers)
            assert answer.status_code == 401
            assert answer.headers.get_list("www-authenticate")[0] == "Bearer"
        assert http.get("/metrics").status_code == 401
        assert http.get("/docs").status_code == 401
        assert http.get("/healthz").status_code == 200
        asked = {"prompt": "1"}
        answer = http.post("/api/draw", json=asked, headers={"Authorization": "Bearer söcret".encode()})
        assert answer.status_code == 200


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, compare = list[tuple[bytes, bytes]](), secrets.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("vqdiff.serving.guards.secrets.compare_digest", noted)
    with serving(toy_pipeline(), token="secret") as (address, _), client(address) as http:
        for given in ("secret", "secreT", "Xecret", "s"):
            status = 200 if given == "secret" else 401
            assert http.get("/metrics", headers={"Authorization": f"Bearer {given}"}).status_code == status
            assert compared.pop() == (given.encode(), b"secret")
            assert not compared


_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir", "pickle.find_class"):
        _opened.append(f"{event} {arguments}")


def test_nothing_in_a_request_is_a_path_or_a_pickle(http: httpx.Client, tmp_path: Path) -> None:
    """Every field of text names a file that is there; the interpreter tells of all that is opened or unpickled."""
    global _opened
    bait = tmp_path / "bait.png"
    bait.write_bytes(png())
    name, marker = str(bait), "bait"
    pickled = in_base64(pickle.dumps(Limits()))
    bodies = [{"prompt": "1", field: name} for field in ("model", "sampler", "negative", "towards", "image")]
    bodies += [{"prompt": name}, {"prompt": "1", "model": pickled}, {"prompt": "1", "image": pickled}]
    bodies += [{"image": in_base64(png()), "mask": name}, {"image": f"file://{name}"}, {"image": f"data:,{name}"}]
    sys.addaudithook(_audit)  # stays for good, and hears nothing but here
    _opened = []
    try:
        statuses = [http.post("/api/draw", json=body).status_code for body in bodies]
        statuses.append(http.post("/v1/images/generations", json={"prompt": "1", "size": name}).status_code)
        files = {"image": (name, png(mode="RGBA", holes=(0, 0, 9, 9)))}
        drawn = http.post("/v1/images/edits", files=files, data={"prompt": "1"})
        statuses.append(http.get(f"/docs/../../..{name}").status_code)
        opened = _opened
    finally:
        _opened = None
    assert {one // 100 for one in statuses} == {4}
    assert drawn.status_code == 200  # a file's name is nothing to us
    assert not [one for one in opened if marker in one or "pickle" in one]
    assert bait.exists()


def test_what_goes_wrong_inside_goes_wrong_alone() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe, shut=False)
    gate.spoil = True
    with serving(pipe) as (address, engine), client(address) as http:
        answer = http.post("/api/draw", json={"prompt": str(POISON)})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "poisoned" not in answer.text
        with http.stream("POST", "/api/draw", json={"prompt": str(POISON), "stream": True}) as answer:
            assert read_events(answer)[-1][0] == "error"
        assert http.post("/api/draw", json={"prompt": "1"}).status_code == 200
        assert engine.counts.failures == 2


def test_time_is_up() -> None:
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with serving(pipe, limits=Limits(timeout=0.3)) as (address, engine), client(address) as http:
        answer = http.post("/api/draw", json={"prompt": "1"})
        assert answer.status_code == 503
        assert "time for this request is up" in answer.json()["error"]["message"]
        gate.open()
        wait_for(lambda: engine.running == 0)
        assert engine.counts.cancelled == 1


# --- prompts that the model does not know -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::vqdiff.foundation.errors.InputWarning")
def test_a_prompt_without_a_known_word_is_reported(pipe: Pipeline) -> None:
    with serving(pipe) as (address, _), client(address) as http:
        for path in ("/v1/images/generations", "/api/draw"):
            asked = {"prompt": "קפה", "steps": 1, "negative": "تفاحة", "guidance": 2.0}
            told = http.post(path, json=asked).json()
            assert len(told["data"]) == 1
            first, second = told["warnings"]
            assert first.startswith("no word of the prompt 'קפה' is known to this model")
            assert "'تفاحة'" in second
            assert http.post(path, json={"prompt": "a red 🍎", "steps": 1}).json()["warnings"] == []
            with http.stream("POST", path, json=asked | {"stream": True}) as answer:
                (_, last) = read_events(answer)[-1]
            assert last["warnings"] == told["warnings"]


def test_an_application_leaves_the_process_that_it_is_part_of_as_it_is() -> None:
    log = logging.getLogger("uvicorn.error")
    before = list(warnings.filters), list(log.filters)
    engine = Engine()
    create_app({"toy": toy_pipeline()}, engine)
    assert (warnings.filters, log.filters) == before
    engine.stop()
