"""AUTOMATIC1111's API as one of its clients calls it."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import webuiapi
from PIL import Image, ImageDraw, ImageOps

from servers import TOKEN, client, serving, wait_for
from toy_pipelines import Gate, toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.serving.api import create_app
from vqdiff.serving.engine import Engine
from vqdiff.serving.limits import Limits

LIMITS = Limits(max_images=4, max_steps=32, max_prompt=50)
HOLE = (0, 0, 15, 20)
OWN = {"steps": 4, "cfg_scale": 3.0}  # the toy model's


def webui_client(address: str, **more: Any) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1", **more)


@pytest.fixture
def ui(server: tuple[str, Pipeline]) -> Iterator[webuiapi.WebUIApi]:
    ui = webui_client(server[0])
    yield ui
    ui.set_options({"sd_model_checkpoint": "toy0"})


def noise(size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.effect_noise(size, 50).convert("RGB")


def white(box: tuple[int, int, int, int] = HOLE) -> Image.Image:
    mask = Image.new("L", (32, 32))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def pixels(*images: Image.Image) -> list[bytes]:
    return [one.convert("RGB").tobytes() for one in images]


# --- images -----------------------------------------------------------------------------------------------------------


def test_txt2img(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(
        prompt="2", negative_prompt="1", seed=5, batch_size=2, n_iter=2, steps=3, cfg_scale=2.5, sampler_name="strided"
    )
    wanted = server[1]("2", negative="1", num_images=4, seed=5, steps=3, guidance=2.5, sampler="strided")
    assert pixels(*result.images) == pixels(*wanted)
    info: Any = result.info
    assert (info["seed"], info["all_seeds"]) == (5, [5, 6, 7, 8])
    assert info["all_prompts"] == ["2"] * 4
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (3, 2.5, "strided")
    assert (info["width"], info["height"], info["index_of_first_image"]) == (32, 32, 0)
    assert (info["sd_model_name"], info["sd_model_hash"]) == ("unnamed", "unsaved")
    assert result.parameters["steps"] == 3


def test_every_image_says_how_it_was_made(ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(prompt="2", negative_prompt="1", seed=5, batch_size=2, **OWN)
    text = result.images[1].info["parameters"]
    assert text == result.info["infotexts"][1]
    prompt, negative, settings = text.split("\n")
    assert (prompt, negative) == ("2", "Negative prompt: 1")
    for one in ("Steps: 4", "Sampler: purity", "CFG scale: 3", "Seed: 6", "Size: 32x32", "Model: unnamed"):
        assert one in settings.split(", ")


def test_what_clients_send_by_default_is_the_models_own(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    """The client's defaults: Euler a, scale 7, 512 × 512 pixels, a random seed."""
    first, second = (ui.txt2img(prompt="2", steps=2) for _ in range(2))
    seed = first.info["seed"]
    assert seed != second.info["seed"]
    assert pixels(first.image) == pixels(*server[1]("2", seed=seed, steps=2, guidance=7))
    assert first.info["sampler_name"] == "purity"


def test_scale_1_is_without_a_negative_prompt(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(prompt="2", negative_prompt="1", seed=5, steps=4, cfg_scale=1)
    assert pixels(result.image) == pixels(*server[1]("2", seed=5, guidance=1))


def test_without_images_the_information_is_left(ui: webuiapi.WebUIApi) -> None:
    result = ui.txt2img(prompt="2", seed=5, send_images=False, **OWN)
    assert not result.images
    assert result.info["all_seeds"] == [5]


def test_img2img_varies(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    image = noise((40, 30))
    result = ui.img2img(images=[image], prompt="2", seed=5, denoising_strength=0.6, batch_size=2, **OWN)
    assert pixels(*result.images) == pixels(*server[1].vary(image, 0.6, "2", num_images=2, seed=5))
    assert result.info["denoising_strength"] == 0.6
    assert "Denoising strength: 0.6" in result.image.info["parameters"]
    assert "init_images" not in result.parameters


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("kind", ["L", "RGBA"])
def test_img2img_resamples_a_part(
    server: tuple[str, Pipeline], ui: webuiapi.WebUIApi, inverted: int, kind: str
) -> None:
    image, mask = noise(), white()
    sent = ImageOps.invert(mask) if inverted else mask
    if kind == "RGBA":  # a mask with transparency is opaque where it is white
        alpha, sent = sent, Image.new("RGBA", (32, 32))
        sent.putalpha(alpha)
    result = ui.img2img(
        images=[image], mask_image=sent, inpainting_mask_invert=inverted, mask_blur=2, prompt="2", seed=5, **OWN
    )
    assert pixels(result.image) == pixels(server[1].edit(image, mask, "2", seed=5, feather=2))


def test_a_mask_needs_no_prompt(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    image = noise()
    result = ui.img2img(images=[image], mask_image=white(), mask_blur=0, seed=5, **OWN)
    assert pixels(result.image) == pixels(server[1].edit(image, white(), seed=5))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "status", "says"),
    [
        ("enable_hr", True, 400, "enable_hr is 'True': this server does not support it"),
        ("tiling", True, 400, "leave it out"),
        ("subseed_strength", 0.5, 400, "subseed_strength is '0.5'"),
        ("script_name", "X/Y/Z plot", 400, "X/Y/Z plot"),
        ("alwayson_scripts", {"ControlNet": {"args": []}}, 400, "ControlNet"),
        ("sampler_name", "DPM++ 2M", 400, "unknown sampler 'DPM"),
        ("batch_size", 5, 400, "batch_size × n_iter is 5: give 1 to 4 images"),
        ("steps", 33, 400, "steps is 33: give 1 to 32"),
        ("seed", -2, 400, "seed is -2"),
        ("cfg_scale", "high", 422, "cfg_scale is 'high'"),
        ("prompt", "x" * 51, 400, "the limit is 50"),
        ("prompt", "", 400, "no prompt"),
        ("negative_prompt", "x" * 51, 400, "the limit is 50"),
        ("override_settings", {"sd_model_checkpoint": "sdxl"}, 404, "choose one of toy0, toy1"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    http: httpx.Client, field: str, value: object, status: int, says: str
) -> None:
    answer = http.post("/sdapi/v1/txt2img", json={"prompt": "2", field: value})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"]
    assert error["param"] == ("model" if field == "override_settings" else field)


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({}, "init_images", "init_images has 0 images: send one"),
        ({"init_images": ["", ""]}, "init_images", "2 images"),
        ({"init_images": ["data:image/png;base64,AAAA"]}, "init_images", "cannot be read"),
        ({"mask": "?"}, "mask", "not valid base64"),
        ({"mask": base64.b64encode(b"no image").decode()}, "mask", "cannot be read"),
        ({"denoising_strength": 1.5}, "denoising_strength", "1.5"),
    ],
)
def test_images_that_are_none(http: httpx.Client, given: dict[str, Any], field: str, says: str) -> None:
    images = {} if field == "init_images" else {"init_images": [webuiapi.webuiapi.b64_img(noise())]}
    answer = http.post("/sdapi/v1/img2img", json={"prompt": "2"} | images | given)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == field


def test_the_token_is_the_password() -> None:
    with serving(toy_pipeline(), token=TOKEN) as (address, _):
        assert webui_client(address, username="any", password=TOKEN).util_get_model_names() == ["toy0"]
        with pytest.raises(RuntimeError, match="the token is missing or wrong"):
            webui_client(address).txt2img(prompt="2")


# --- models, samplers and what is missing -----------------------------------------------------------------------------


def test_a_client_chooses_its_model(server: tuple[str, Pipeline], ui: webuiapi.WebUIApi) -> None:
    assert ui.util_get_model_names() == ["toy0", "toy1"]
    assert ui.util_get_current_model() == "toy0"
    ui.util_set_model("toy1")
    assert ui.util_get_current_model() == "toy1"
    unconditional, other = ui.txt2img(seed=5, **OWN), toy_pipeline("unconditional")
    assert pixels(unconditional.image) == pixels(*other(seed=5))
    back = ui.txt2img(prompt="2", seed=5, override_settings={"sd_model_checkpoint": "toy0", "CLIP_stop": 2}, **OWN)
    assert pixels(back.image) == pixels(*server[1]("2", seed=5))


def test_two_addresses_of_a_network_are_two_clients() -> None:
    from starlette.testclient import TestClient

    app = create_app({"toy0": toy_pipeline(), "toy1": toy_pipeline("unconditional")}, Engine())
    one, other = (TestClient(app, "http://localhost", client=(f"2001:db8::{i}", 1)) for i in (1, 2))
    assert one.post("/sdapi/v1/options", json={"sd_model_checkpoint": "toy1"}).is_success
    chosen = [each.get("/sdapi/v1/options").json()["sd_model_checkpoint"] for each in (one, other)]
    assert chosen == ["toy1", "toy0"]


def test_a_model_that_is_not_served_is_not_chosen(http: httpx.Client) -> None:
    assert http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"}).status_code == 404
    assert http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "toy0"


def test_the_samplers_are_those_of_vqdiff(ui: webuiapi.WebUIApi) -> None:
    import vqdiff

    assert ui.util_get_sampler_names() == sorted(vqdiff.samplers())


def test_what_clients_request_when_they_start(ui: webuiapi.WebUIApi) -> None:
    assert ui.get_scripts() == {"txt2img": [], "img2img": []}
    assert ui.util_get_scheduler_names() == ["automatic"]
    assert [one["name"] for one in ui.get_upscalers()] == ["None"]
    assert ui.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert ui.get_cmd_flags() == {}
    for one in ("loras", "prompt_styles", "sd_vae", "hypernetworks", "face_restorers", "latent_upscale_modes"):
        assert getattr(ui, f"get_{one}")() == []


# --- progress and interrupt -------------------------------------------------------------------------------------------


def test_progress_with_the_image_so_far_and_interrupt() -> None:
    pipe, results = toy_pipeline(steps=20), list[Any]()
    gate = Gate(pipe)
    with serving(pipe, max_rows=1) as (address, engine):
        ui, http = webui_client(address), client(address)
        assert ui.get_progress()["progress"] == 0
        ui.util_wait_for_ready()

        def generate() -> None:
            results.append(ui.txt2img(prompt="2", seed=5, batch_size=2, **OWN))

        thread = threading.Thread(target=generate)
        thread.start()
        gate.await_call()
        gate.let(2)
        before = http.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()
        assert before["progress"] == 0.25
        assert before["state"]["job_count"] == 1
        assert (before["state"]["sampling_step"], before["state"]["sampling_steps"]) == (1, 4)
        assert before["eta_relative"] > 0
        assert before["current_image"] is None
        ui.get_progress()  # asks for previews from the next step on
        gate.let(1)
        wait_for(lambda: ui.get_progress()["current_image"] is not None)
        shown = Image.open(io.BytesIO(base64.b64decode(ui.get_progress()["current_image"])))
        assert shown.size == (32, 32)
        gate.let(2)  # the first image is finished, the second has begun
        ui.interrupt()
        gate.open()
        thread.join(30)
        (result,) = results
        assert result.info["all_seeds"] == [5]
        assert pixels(result.image) == pixels(*toy_pipeline()("2", seed=5))
        wait_for(lambda: ui.get_progress()["state"]["job_count"] == 0)
        assert engine.counts.cancelled == 1


def test_interrupt_without_anything_in_progress(ui: webuiapi.WebUIApi) -> None:
    assert ui.interrupt() is None
