"""The page in a real browser: what people see of it, and what nobody can reach through it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from servers import client, page_config, page_job, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import Trace
from vqdiff.serving.engine import Engine
from vqdiff.serving.limits import Limits
from vqdiff.serving.page.event_check import EventCheck
from vqdiff.serving.page.generation import Progress
from vqdiff.serving.page.parts import state
from vqdiff.serving.schemas import ImageRequest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LIMITS = Limits(max_images=6, max_steps=32)
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def emoji(pipe: Pipeline) -> Pipeline:
    return pipe


@pytest.fixture(scope="module")
def server(emoji: Pipeline) -> Iterator[str]:
    with serving(emoji, limits=LIMITS, page=True) as (address, _):
        yield address


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    yield from visit(browser, server)


def visit(browser: Browser, address: str) -> Iterator[Page]:
    """A page that talks to its server alone, and has nothing to complain about."""
    asked, wrong = list[str](), list[str]()
    with browser.new_context(viewport={"width": 1240, "height": 900}, reduced_motion="reduce") as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.goto(address)
        yield page
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(address).netloc}
    assert not wrong


def draw(page: Page, prompt: str, *, seed: int, count: int, tab: str = "Draw", button: str = "Draw") -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    panel.get_by_label("Prompt").fill(prompt)
    panel.get_by_label("random").uncheck()
    panel.get_by_label("Seed").fill(str(seed))
    if count:
        panel.locator("input[type=number]").first.fill(str(count))
    panel.get_by_role("button", name=button, exact=True).click()


def saved(page: Page, link: str, folder: Path) -> Image.Image:
    with page.expect_download() as download:
        page.locator(link).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return Image.open(path)


def test_a_prompt_becomes_pictures(page: Page, emoji: Pipeline, tmp_path: Path) -> None:
    page.locator(".vq-styles:visible").get_by_text("noto", exact=True).click()
    draw(page, "a red apple", seed=5, count=2)
    expect(page.locator("#pictures .vq-draft img").first).to_be_visible()  # on its way
    expect(page.locator("#pictures a[download]")).to_have_count(2)
    image = saved(page, "#pictures .vq-card:nth-child(2) a[download]", tmp_path)
    assert image.filename.endswith("a-red-apple-noto-style-6.png")  # type: ignore[attr-defined]
    wanted = emoji("a red apple, noto style", seed=6)[0]
    assert image.convert("RGB").tobytes() == wanted.tobytes()
    record = json.loads(image.info["vqdiff"])
    assert (record["prompt"], record["seed"], record["sampler"]) == ("a red apple, noto style", 6, "purity")
    page.get_by_role("button", name="seed 6").click()
    expect(page.locator("[role=tabpanel]:visible").get_by_label("Seed")).to_have_value("6")
    page.reload()
    draw(page, "a house", seed=1, count=1)
    expect(page.locator("#pictures img[alt='a house']")).to_be_visible()


def test_a_brush_marks_what_to_redraw(page: Page, emoji: Pipeline, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Resample what is painted").click()
    expect(page.get_by_role("alert")).to_contain_text("There is no image yet")
    before = emoji("red heart", seed=0)[0]
    file = tmp_path / "heart.png"
    before.save(file)
    page.locator("#brush input[type=file]").set_input_files(file)
    canvas = page.locator("#brush canvas")
    expect(canvas).to_be_visible()
    page.get_by_role("button", name="Resample what is painted").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing is painted")
    box = canvas.bounding_box()
    assert box is not None
    paint(page, box, (0.2, 0.3), (0.5, 0.3))
    paint(page, box, (0.8, 0.9), (0.9, 0.9))
    page.get_by_role("button", name="Undo").click()
    draw(page, "a tree", seed=3, count=1, tab="Edit", button="Resample what is painted")
    expect(page.locator("#edited a[download]")).to_have_count(1)
    after = saved(page, "#edited a[download]", tmp_path)
    changed = (np.asarray(after.convert("RGB")) != np.asarray(before)).any(-1)
    rows, columns = changed.nonzero()
    assert changed.mean() > 0.02
    assert rows.max() < 0.45 * 128  # the stroke below was undone
    assert columns.max() < 0.65 * 128
    page.locator("#edited").get_by_role("button", name="Edit").click()  # and on from there
    expect(page.locator("#brush img")).to_have_attribute("src", re.compile("^data:image/png"))


def paint(page: Page, box: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move(x1, y1, steps=5)
    page.mouse.up()


def test_a_drawn_picture_is_taken_to_the_brush(page: Page) -> None:
    draw(page, "a cat face", seed=0, count=1)
    page.locator("#pictures").get_by_role("button", name="Edit").click()
    expect(page.locator("#brush canvas")).to_be_visible()
    picture = page.locator("#brush img").get_attribute("src")
    page.reload()
    draw(page, "a cat face", seed=0, count=1)
    expect(page.locator("#pictures a[download]")).to_have_count(1)
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Take the last generated image").click()
    expect(page.locator("#brush img")).to_have_attribute("src", picture or "")


def test_why_shows_the_steps(page: Page, emoji: Pipeline) -> None:
    draw(page, "a red apple", seed=4, count=1)
    page.get_by_role("button", name="Why?").click()
    words, slider = page.locator("#why .vq-words"), page.locator("#why input[type=range]")
    expect(words).to_contain_text("Step 16 of 16")
    trace = Trace.collect(emoji.frames(["a red apple"], [4], emoji.model.sampling))
    for step in (1, 9, 16):
        slider.fill(str(step))
        count, open_ = int(trace.revealed[step - 1].sum()), int((trace.reveal_step() > step).sum())
        sure = round(100 * float(trace.confidence[step - 1].mean()))
        expect(words).to_contain_text(f"Step {step} of 16: {count} tokens revealed, {open_} of 256 still masked")
        shown = int((words.text_content() or "").split("masked; ")[1].split()[0])
        assert abs(shown - sure) <= 1
    assert page.locator("#why .vq-sure").evaluate("canvas => canvas.width") == 16
    page.locator("#why [data-play]").click()
    expect(words).to_contain_text(re.compile("Step [1-9] of 16"))
    expect(words).to_contain_text("Step 16 of 16")


def test_compare_puts_four_ways_side_by_side(page: Page, emoji: Pipeline, tmp_path: Path) -> None:
    draw(page, "a cat face", seed=2, count=1, tab="Compare", button="Compare")
    expect(page.locator("#table a[download]")).to_have_count(4)
    heads = [" ".join(one.split()) for one in page.locator("#table th").all_inner_texts()]
    guided = f"guidance {emoji.model.sampling.guidance:g}"
    samplers = ["random order", "by purity"]
    assert heads == [f"{sampler} {scale}" for scale in ("no guidance", guided) for sampler in samplers]
    for i, asked in enumerate([{"sampler": "fewer-tokens", "guidance": 1.0}, {}], 1):
        image = saved(page, f"#table td:nth-child({[1, 4][i - 1]}) a[download]", tmp_path)
        assert image.convert("RGB").tobytes() == emoji("a cat face", seed=2, **asked)[0].tobytes()


def test_mistakes_are_reported_in_a_line(page: Page) -> None:
    draw(page, " ", seed=0, count=1)
    expect(page.get_by_role("alert")).to_have_text("The prompt is empty: describe the image to generate")
    draw(page, "a red apple " * 100, seed=0, count=1)
    expect(page.get_by_role("alert")).to_contain_text("the limit is 1000: shorten it")


def test_a_prompt_without_a_known_word_is_reported(page: Page) -> None:
    draw(page, "קפה", seed=0, count=2)
    expect(page.locator("#pictures .vq-note")).to_have_text(
        re.compile("^Done. But no word of the prompt 'קפה' is known to this model, [^.]*[.]$")
    )


def test_models_by_name_and_a_button_that_stops(browser: Browser) -> None:
    slow = toy_pipeline("unconditional")
    gate = Gate(slow)
    with serving(toy_pipeline(), slow, page=True) as (address, engine):
        for page in visit(browser, address):
            panel = page.locator("[role=tabpanel]:visible")
            expect(panel.get_by_label("Label, 0 to 4")).to_be_visible()
            expect(page.locator(".vq-styles:visible")).to_have_count(0)
            panel.get_by_role("button", name="Draw", exact=True).click()
            expect(page.locator("#pictures a[download]")).to_have_count(4)
            page.get_by_label("Model").click()
            page.get_by_role("option", name="toy1").click()
            expect(panel.get_by_label("Label, 0 to 4")).to_be_hidden()
            panel.get_by_role("button", name="Draw", exact=True).click()
            gate.await_call()
            page.get_by_role("button", name="Stop").first.click()
            expect(page.locator("#pictures")).to_have_text("Stopped.")
            gate.open()
            wait_for(lambda: engine.counts.cancelled == 1)
            panel.get_by_role("button", name="Draw", exact=True).click()
            expect(page.locator("#pictures a[download]")).to_have_count(4)


@pytest.fixture
def begun(browser: Browser) -> Iterator[tuple[Page, Gate, Engine]]:
    """A page that has begun to draw, the gate its model waits at, and the server's engine."""
    pipe = toy_pipeline()
    gate = Gate(pipe)
    with serving(pipe, page=True) as (address, engine):
        for page in visit(browser, address):
            page.get_by_role("button", name="Draw", exact=True).click()
            gate.await_call()
            yield page, gate, engine


def test_a_button_pressed_again_starts_again(begun: tuple[Page, Gate, Engine]) -> None:
    page, gate, engine = begun
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for(lambda: engine.waiting == 1)
    gate.open()
    expect(page.locator("#pictures a[download]")).to_have_count(4)
    assert engine.counts.cancelled == 1


def test_what_is_drawn_no_more_says_nothing(begun: tuple[Page, Gate, Engine]) -> None:
    page, gate, engine = begun
    page.locator("[role=tabpanel]:visible").get_by_label("Label, 0 to 4").fill("0" * 1001)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    gate.open()
    wait_for(lambda: engine.counts.cancelled == 1)
    page.wait_for_timeout(1000)  # for what it might say
    expect(page.get_by_role("alert")).to_be_visible()


def test_who_leaves_stops_costing(begun: tuple[Page, Gate, Engine]) -> None:
    page, gate, engine = begun
    page.close()
    wait_for(lambda: engine.counts.cancelled == 1)
    gate.open()


# --- what the page adds to what can be reached ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with client(server) as http:
        yield http


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/deep_link"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/call/run"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/config"),
        ("GET", "/monitoring"),
        ("POST", "/login"),
        ("GET", "/nowhere"),
        ("PUT", "/"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_static_files_stay_in_their_folder(http: httpx.Client) -> None:
    for path in ("/assets/..%2f..%2f..%2f..%2f__init__.py", "/assets/%2fetc/passwd", "/static/..%2findex.html"):
        assert http.get(path).status_code in (403, 404)


def test_the_page_takes_no_files_and_no_strange_requests(http: httpx.Client) -> None:
    join = "/gradio_api/queue/join"
    file = {"path": "http://127.0.0.1/x", "meta": {"_type": "gradio.FileData"}}
    assert http.post(join, json={"fn_index": 0, "session_hash": "a", "data": [[file]]}).status_code == 400
    assert http.post(join, content=b"[" * 100_000).status_code == 400
    assert http.post(join, content=b"\xff").status_code == 400
    assert http.post("/v1/images/generations", json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    elsewhere = {"Origin": "http://evil.example"}  # all that browsers say over plain http
    assert http.post("/v1/images/generations", json={}, headers=elsewhere).status_code == 403
    own = {"Origin": str(http.base_url).rstrip("/")}
    assert http.post("/v1/images/generations", json={}, headers=own).status_code == 400
    assert http.get("/api/draw").status_code == 405
    assert http.get("/gradio_api/heartbeat/a").status_code == 204
    assert "access-control-allow-origin" not in http.get("/", headers={"Origin": "http://127.0.0.1:1"}).headers


def test_limits_hold_for_those_who_write_their_own_requests(http: httpx.Client) -> None:
    for label, value, says in [
        ("Images", 1000, "give 1 to 6 images"),
        ("Steps", 33, "give 1 to 32"),
        ("Steps", "many", "it should be a valid integer"),
        ("Style", "<b>", "no style"),
        ("Preset", "fats", "did you mean"),
        ("Preset", ["fast"], "it should be a valid string"),
        ("Model", "../../etc", "No model of that name"),
        ("Prompt", {"a": 1}, "it should be a valid string"),
    ]:
        asked = page_job(http, **{label: value}) | {"session_hash": label}
        assert http.post("/gradio_api/queue/join", json=asked).status_code == 200
        told = http.get("/gradio_api/queue/data", params={"session_hash": label}).text
        assert "vq-problem" in told
        assert says in told


def test_a_preset_sets_the_fields(http: httpx.Client, emoji: Pipeline) -> None:
    """And is part of the request, with the settings that were changed since."""
    config = page_config(http)
    labels = {one["id"]: one["props"].get("label") for one in config["components"]}
    event = next(one for one in config["dependencies"] if len(one["inputs"]) == 2 and len(one["outputs"]) > 8)
    own = emoji.model

    def answer(values: dict[str, Any], session: str) -> list[Any]:
        assert http.post(JOIN, json=values | {"session_hash": session}).status_code == 200
        told = http.get("/gradio_api/queue/data", params={"session_hash": session}).text
        return next(json.loads(line[6:]) for line in told.splitlines() if "process_completed" in line)["output"]["data"]

    values = answer({"data": ["toy0", "fast"], "fn_index": event["id"]}, "chosen")
    fields = dict(zip([labels[one] for one in event["outputs"]], values, strict=True))
    assert fields["Steps"] == own.preset("fast").steps != own.sampling.steps
    for changed in ({}, {"Steps": 3}):
        html, _ = answer(page_job(http, Images=1, Preset="fast", **fields | changed), f"drawn{len(changed)}")
        found = re.search('data-drawing="(.*?)"', html)
        assert found is not None
        drawing = ImageRequest.model_validate_json(unescape(found[1]))
        assert (drawing.preset, drawing.steps) == ("fast", changed.get("Steps"))


JOIN = "/gradio_api/queue/join"


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (JOIN, [], 400, "not a JSON object"),
        (JOIN, {}, 404, "no event with the number None"),
        (JOIN, {"fn_index": 9999}, 404, "no event with the number 9999"),
        (JOIN, {"fn_index": 10**60}, 404, "no event with the number 1000"),
        (JOIN, {"fn_index": True}, 404, "no event with the number True"),
        (JOIN, {"fn_index": "run"}, 404, "no event"),
        (JOIN, {"fn_index": "RUN", "data": []}, 400, "this event takes a list of"),
        (JOIN, {"fn_index": "RUN", "data": {}}, 400, "this event takes a list of"),
        (JOIN, {"fn_index": "RUN", "session_hash": None}, 400, "session_hash"),
        (JOIN, {"fn_index": "RUN", "session_hash": "\ud800"}, 400, "session_hash"),
        (JOIN, {"fn_index": "RUN", "trigger_id": 9999}, 404, "no component with the number"),
        ("/gradio_api/cancel", {}, 422, "session_hash is missing"),
        ("/gradio_api/reset", {"event_id": 5}, 422, "event_id is 5"),
    ],
)
def test_what_the_page_would_stumble_over_is_refused(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, path: str, body: Any, status: int, says: str
) -> None:
    if isinstance(body, dict) and body.get("fn_index") == "RUN":
        job = page_job(http)
        body = job | {"session_hash": "a"} | body | {"fn_index": job["fn_index"]}
    answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert not caplog.records


@pytest.mark.parametrize("path", ["/assets/no.js", "/static/", "/assets/%00a", "/gradio_api/queue/data?session_hash=b"])
def test_what_is_not_there_is_reported_as_by_the_api(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_events_that_were_made_up_are_reported_to_their_client(
    http: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    events = [one for one in page_config(http)["dependencies"] if one["backend_fn"] and not one["inputs"]]
    made_up = [None, {}, {"drawing": "{", "picture": 5}, {"drawing": '{"model": "x"}'}, [1], {"drawing": {"n": 1}}]
    for number, (event, data) in enumerate(product(events, made_up)):
        asked = {"data": [], "fn_index": event["id"], "session_hash": f"made{number}", "event_data": data}
        assert http.post(JOIN, json=asked).status_code == 200
        told = http.get("/gradio_api/queue/data", params={"session_hash": f"made{number}"}).text
        assert "process_completed" in told
    assert len(events) >= 4
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_fails_inside_the_page_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    with serving(toy_pipeline(), page=True) as (address, _), client(address) as http:
        monkeypatch.setattr("gradio.queueing.Queue.push", fail)
        answer = http.post(JOIN, json=page_job(http) | {"session_hash": "a"})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
    assert [one.message for one in caplog.records] == ["the page failed"]


@pytest.mark.parametrize(
    ("status", "error", "sent"),
    [
        (200, None, [200, b"some"]),
        (200, RuntimeError("ours"), [200, b"some", b""]),  # what has begun can only end
        (404, None, [404, b'"message":"Not Found"']),
        (404, RuntimeError("ours"), [500, b"the page failed"]),
    ],
)
def test_the_door_puts_errors_into_shape(status: int, error: Exception | None, sent: list[Any]) -> None:
    messages = through_the_door(status, error)
    assert messages[0]["status"] == sent[0]
    assert len(messages) == len(sent)
    for message, part in zip(messages[1:], sent[1:], strict=True):
        assert part in message["body"]


def test_the_door_leaves_it_to_the_server_to_hang_up() -> None:
    with pytest.raises(TimeoutError):
        through_the_door(200, TimeoutError())


def through_the_door(status: int, error: Exception | None) -> list[Any]:
    """What is sent where the page answers so, and then raises ``error``."""
    messages = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": error is not None})
        if error is not None:
            raise error

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/assets/x", "query_string": b"", "headers": []}
    with ThreadPoolExecutor(1) as thread:  # the browser has this one's event loop
        thread.submit(asyncio.run, EventCheck(app, blocks=gr.Blocks())(scope, receive, send)).result()
    return messages


def test_large_seeds_keep_their_value(browser: Browser) -> None:
    seed = str(2**53 + 1)
    with serving(toy_pipeline(), page=True) as (address, _):
        for page in visit(browser, address):
            panel = page.locator("[role=tabpanel]:visible")
            panel.get_by_label("random").uncheck()
            panel.get_by_label("Seed").fill(seed)
            panel.get_by_role("button", name="Draw", exact=True).click()
            expect(page.locator("#pictures a[download]")).to_have_count(4)
            panel.get_by_label("Seed").fill("0")
            page.get_by_role("button", name=f"seed {seed}").click()
            expect(panel.get_by_label("Seed")).to_have_value(seed)
            page.locator("#pictures").get_by_role("button", name="Why?").first.click()
            expect(page.locator("#why .vq-words")).to_contain_text("Step 4 of 4")
            expect(page.locator("#now")).to_contain_text(f"seed {seed}")


def test_the_token_guards_the_page(browser: Browser) -> None:
    with serving(toy_pipeline(), token="secret", page=True) as (address, _):
        with client(address) as http:
            for path in ("/", "/theme.css", "/gradio_api/queue/data?session_hash=a"):
                answer = http.get(path)
                assert answer.status_code == 401
                assert "Basic" in answer.headers["WWW-Authenticate"]
            assert http.get("/", auth=("me", "wrong")).status_code == 401
            assert http.get("/", headers={"Authorization": "Basic ???"}).status_code == 401
        with browser.new_context(http_credentials={"username": "me", "password": "secret"}) as context:
            page = context.new_page()
            page.goto(address)
            page.get_by_role("button", name="Draw", exact=True).click()
            expect(page.locator("#pictures a[download]")).to_have_count(4)


def test_without_the_page() -> None:
    with serving(toy_pipeline()) as (address, _), client(address) as http:
        assert http.get("/").status_code == 404
        assert http.get("/assets/index.js").status_code == 404


def test_prompts_that_the_model_does_not_know_are_reported() -> None:
    told = state(Progress(1, 1, 0, [], toy_pipeline(), None, ["no word of the prompt '<קפה>' is known"]))
    assert "Done. But no word of the prompt" in told
    assert "&lt;קפה&gt;" in told
    assert "But" not in state(Progress(1, 1, 0, [], toy_pipeline()))
