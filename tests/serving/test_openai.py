"""OpenAI's images as its own client and the usual proxies request them."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest
from PIL import ExifTags, Image, ImageDraw

from servers import client, openai_client, post, serving, wait_for
from toy_pipelines import POISON, Gate, toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.serving.encoding import Encoding
from vqdiff.serving.limits import Limits

LIMITS = Limits(max_images=4, max_steps=32, max_prompt=50)
HOLE = (0, 0, 15, 20)


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((32, 32), 50).convert(mode)


def with_hole(image: Image.Image, fill: Any) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).rectangle(HOLE, fill=fill)
    return image


def read(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def pixels(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


# --- what is honoured -------------------------------------------------------------------------------------------------


def test_a_model_is_retrieved(ai: openai.OpenAI) -> None:
    assert ai.models.retrieve("toy1").id == "toy1"
    with pytest.raises(openai.NotFoundError, match="choose one of toy0, toy1") as error:
        ai.models.retrieve("gpt-image-1")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_a_model_without_a_name_is_none(http: httpx.Client) -> None:
    assert http.get("/v1/models/").status_code == 404


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats_are_really_encoded(server: tuple[str, Pipeline], ai: openai.OpenAI, kind: Any) -> None:
    wanted = np.asarray(server[1]("2", seed=5)[0], np.float32)
    sizes = list[int]()
    for quality in (100, 10):
        answer = ai.images.generate(prompt="2", output_format=kind, output_compression=quality, extra_body={"seed": 5})
        assert (answer.output_format, answer.size, answer.background) == (kind, "32x32", "opaque")
        assert answer.data is not None
        content = base64.b64decode(answer.data[0].b64_json or "")
        image = read(content)
        assert image.format == kind.upper()
        if quality == 100:
            assert np.abs(np.asarray(image.convert("RGB"), np.float32) - wanted).mean() <= (2 if kind == "jpeg" else 0)
        record = image.info["vqdiff"] if kind == "png" else image.getexif()[ExifTags.Base.ImageDescription]
        assert json.loads(record)["seed"] == 5
        sizes.append(len(content))
    assert (sizes[1] < sizes[0]) == (kind != "png")


def test_a_record_too_long_for_a_jpeg_is_left_out() -> None:
    image = read(Encoding("jpeg").encode(noise(), {"prompt": "x" * 70_000}))
    assert not image.getexif()


def test_an_address_holds_the_picture(ai: openai.OpenAI) -> None:
    answer = ai.images.generate(prompt="2", response_format="url", output_format="webp")
    assert answer.data is not None
    head, _, content = (answer.data[0].url or "").partition(",")
    assert head == "data:image/webp;base64"
    assert read(base64.b64decode(content)).size == (32, 32)
    assert answer.data[0].b64_json is None


def test_a_stream_has_partial_images_and_ends_with_the_picture(server: tuple[str, Pipeline], ai: openai.OpenAI) -> None:
    stream = ai.images.generate(prompt="1", stream=True, partial_images=2, extra_body={"seed": 4, "steps": 12})
    *partial, last = list(stream)
    assert [one.type for one in partial] == ["image_generation.partial_image"] * len(partial)
    assert [one.partial_image_index for one in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 2
    assert read(base64.b64decode(partial[0].b64_json)).size == (32, 32)
    assert last.type == "image_generation.completed"
    assert (last.size, last.output_format, last.usage.total_tokens) == ("32x32", "png", 64)
    wanted = server[1]("1", seed=4, steps=12)[0]
    assert pixels(read(base64.b64decode(last.b64_json))) == pixels(wanted)


def test_a_stream_without_partial_images_has_the_pictures_alone(ai: openai.OpenAI) -> None:
    stream = ai.images.generate(prompt="1", n=2, stream=True, output_format="jpeg")
    events = list(stream)
    assert [one.type for one in events] == ["image_generation.completed"] * 2
    assert read(base64.b64decode(events[1].b64_json)).format == "JPEG"


def test_an_edit_is_streamed_at_the_size_of_its_picture(ai: openai.OpenAI) -> None:
    image = Image.effect_noise((40, 20), 50).convert("RGB")
    mask = Image.new("L", (40, 20), 255)
    stream = ai.images.edit(
        image=file_of(image), mask=file_of(mask), prompt="1", stream=True, partial_images=1, extra_body={"steps": 12}
    )
    events = list(stream)
    assert events[-1].type == "image_edit.completed"
    assert {read(base64.b64decode(one.b64_json)).size for one in events} == {(40, 20)}
    assert {one.size for one in events} == {"40x20"}


def test_what_goes_wrong_in_a_stream_is_reported() -> None:
    pipe = toy_pipeline(steps=12)
    gate = Gate(pipe)
    with serving(pipe, limits=LIMITS) as (address, engine):
        ai = openai_client(address)
        with pytest.raises(openai.BadRequestError, match="give 1 to 32"):
            ai.images.generate(prompt="1", stream=True, extra_body={"steps": 40})
        stream = ai.images.generate(prompt=str(POISON), stream=True, partial_images=3)
        gate.await_call()
        gate.let(6)
        gate.spoil = True
        gate.open()
        with pytest.raises(openai.APIError, match="the server failed to generate this"):
            list(stream)
        wait_for(lambda: engine.counts.failures == 1)  # counted when the client may know already


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_what_has_no_effect_is_taken(server: tuple[str, Pipeline], ai: openai.OpenAI) -> None:
    ignored: dict[str, Any] = {"background": "transparent", "moderation": "low", "quality": "high", "user": "me"}
    answer = ai.images.generate(prompt="2", style="vivid", size="auto", extra_body={"seed": 5}, **ignored)
    assert answer.data is not None
    assert pixels(read(base64.b64decode(answer.data[0].b64_json or ""))) == pixels(server[1]("2", seed=5)[0])
    edited = ai.images.edit(
        image=file_of(with_hole(noise("RGBA"), (0, 0, 0, 0))),
        prompt="1",
        background="auto",
        input_fidelity="high",
        output_compression=50,
        output_format="webp",
        partial_images=2,
        user="me",
    )
    assert edited.output_format == "webp"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/api/draw"])
def test_null_is_as_if_not_given(http: httpx.Client, path: str) -> None:
    fields = http.get("/openapi.json").json()["components"]["schemas"]
    names = fields["Generation" if "v1" in path else "ImageRequest"]["properties"].keys() - {"prompt", "seed"}
    body = {"prompt": "2", "seed": 5}
    nulls = http.post(path, json=body | dict.fromkeys(names))
    assert nulls.status_code == 200, nulls.text
    assert nulls.json()["data"] == http.post(path, json=body).json()["data"]


def test_the_client_sends_none(ai: openai.OpenAI) -> None:
    none: dict[str, Any] = dict.fromkeys(("n", "size", "quality", "response_format", "output_format", "background"))
    assert ai.images.generate(prompt="2", **none).data
    assert ai.images.edit(image=file_of(with_hole(noise("RGBA"), (0, 0, 0, 0))), prompt="1", **none).data


# --- pictures to edit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_picture_comes_under_either_name(server: tuple[str, Pipeline], http: httpx.Client, name: str) -> None:
    image, mask = noise(), with_hole(Image.new("L", (32, 32)), 255)
    files = {name: ("a.png", file_of(image)), "mask": ("mask.png", file_of(mask))}
    answer = http.post("/v1/images/edits", files=files, data={"prompt": "1", "seed": "3", "n": ""})
    assert answer.status_code == 200, answer.text
    drawn = read(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert pixels(drawn) == pixels(server[1].edit(image, mask, "1", seed=3))


def test_a_list_of_one_picture_is_taken_and_of_two_is_not(ai: openai.OpenAI, http: httpx.Client) -> None:
    image, mask = file_of(noise()), file_of(with_hole(Image.new("L", (32, 32)), 255))
    assert ai.images.edit(image=[image], mask=mask, prompt="1").data
    with pytest.raises(openai.BadRequestError, match="2 images are given") as error:
        ai.images.edit(image=[image, image], mask=mask, prompt="1")
    assert error.value.param == "image"
    text = http.post("/v1/images/edits", data={"prompt": "1", "image": "a.png"}).json()["error"]
    assert (text["param"], text["message"]) == ("image", "image.0 is 'a.png': it should be a file")
    none = http.post("/v1/images/edits", data={"prompt": "1"})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "image")
    assert "send one image" in none.json()["error"]["message"]


MASKS = {
    "RGBA": with_hole(noise("RGBA"), (9, 9, 9, 0)),
    "LA": with_hole(noise("LA"), (9, 0)),
    "L": with_hole(Image.new("L", (32, 32)), 255),
    "RGB": with_hole(Image.new("RGB", (32, 32)), (255, 255, 255)),
    "1": with_hole(Image.new("1", (32, 32)), 1),
    "P": with_hole(Image.new("L", (32, 32)), 255).convert("P"),
}


@pytest.mark.parametrize("mode", MASKS)
def test_masks_of_every_mode_say_the_same(server: tuple[str, Pipeline], ai: openai.OpenAI, mode: str) -> None:
    image = noise()
    answer = ai.images.edit(image=file_of(image), mask=file_of(MASKS[mode]), prompt="1", extra_body={"seed": 3})
    assert answer.data is not None
    wanted = server[1].edit(image, with_hole(Image.new("L", (32, 32)), 255), "1", seed=3)
    assert pixels(read(base64.b64decode(answer.data[0].b64_json or ""))) == pixels(wanted)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (Image.new("RGBA", (32, 32), "white"), "the mask needs a fully transparent part"),
        (Image.new("RGBA", (32, 32), (255, 255, 255, 9)), "the mask needs a fully transparent part"),
        (Image.new("L", (32, 32)), "the mask needs a white part, or a transparent one"),
        (Image.new("L", (31, 32), 255), "give a mask of that size"),
        (None, "the image, or a mask, needs a fully transparent part"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(ai: openai.OpenAI, mask: Image.Image | None, says: str) -> None:
    given: dict[str, Any] = {} if mask is None else {"mask": file_of(mask)}
    with pytest.raises(openai.BadRequestError, match=says) as error:
        ai.images.edit(image=file_of(noise()), prompt="1", **given)
    assert error.value.param == "mask"


# --- what is wrong, by its field --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"n": 0}, 400, "n is 0: it should be greater than or equal to 1"),
        ({"n": 5}, 400, "n is 5: give 1 to 4"),
        ({"n": "2"}, 422, "n is '2'"),
        ({"prompt": "x" * 51}, 400, "51 characters"),
        ({"prompt": "99"}, 400, "labels run from 0 to 4"),
        ({"prompt": None}, 400, "no prompt"),
        ({"negative": "99"}, 400, "labels run"),
        ({"negative": "1", "guidance": 1}, 400, "acts through guidance"),
        ({"steps": 0}, 400, "steps is 0"),
        ({"steps": 33}, 400, "1 to 32"),
        ({"seed": -1}, 400, "seed is -1"),
        ({"seed": 2**63}, 400, "seed is 9223372036854775808"),
        ({"seed": 2**63 - 1, "n": 2}, 400, "exceed 2^63"),
        ({"seed": "1.5"}, 422, "seed is '1.5'"),
        ({"seed": "9" * 20}, 400, "9223372036854775807"),
        ({"seed": "9" * 5000}, 422, "seed is '999"),
        ({"guidance_interval": ["x", 1]}, 422, "guidance_interval.0 is 'x'"),
        ({"size": "1024x1024"}, 400, "this model generates 32x32"),
        ({"model": "gpt-image-1"}, 404, "toy0, toy1"),
        ({"sampler": "purify"}, 400, "did you mean"),
        ({"guidance": 1e9}, 400, "between -1000000 and 1000000"),
        ({"prior_scale": 1e9}, 400, "between 0 and 1000000"),
        ({"truncation": 2}, 400, "truncation is 2"),
        ({"guidance_schedule": "square"}, 400, "guidance_schedule is 'square'"),
        ({"guidance_interval": [0.9, 0.1]}, 400, "two rising numbers"),
        ({"output_format": "gif"}, 400, "output_format is 'gif'"),
        ({"output_compression": 101}, 400, "output_compression is 101"),
        ({"partial_images": 4}, 400, "partial_images is 4"),
        ({"response_format": "file"}, 400, "response_format is 'file'"),
        ({"stream": "yes"}, 422, "stream is 'yes'"),
        ({"frames": 3}, 422, "frames is not a field of this request"),
        ({"user": "x" * 500, "style": ["x" * 500]}, 422, "…"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, body: dict[str, Any], status: int, says: str) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": "1"} | body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error"), error
    assert says in error["message"]
    assert error["param"] in body
    assert len(error["message"]) < 200


def test_no_json_is_reported_with_its_place(http: httpx.Client) -> None:
    json_type = {"Content-Type": "application/json"}
    for content, says in [
        (b'{"prompt": }', "the request is not valid JSON: Expecting value at character 11"),
        (b"[]", "send one, as application/json"),
        (b"", "send one, as application/json"),
    ]:
        answer = http.post("/v1/images/generations", content=content, headers=json_type)
        assert answer.status_code in (400, 422)
        assert says in answer.json()["error"]["message"]


def test_large_seeds_keep_their_value(server: tuple[str, Pipeline], http: httpx.Client) -> None:
    for seed in (2**53 + 1, str(2**53 + 1), 2**63 - 1):
        answer = http.post("/v1/images/generations", json={"prompt": "1", "seed": seed})
        data = answer.json()["data"][0]
        image = read(base64.b64decode(data["b64_json"]))
        assert data["seed"] == json.loads(image.info["vqdiff"])["seed"] == int(seed)
        assert pixels(image) == pixels(server[1]("1", seed=int(seed))[0])


# --- who hangs up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"stream": True, "partial_images": 1}),
        ("/v1/images/generations", {"stream": True}),
        ("/v1/images/generations", {}),
        ("/api/draw", {"stream": True}),
    ],
)
def test_who_hangs_up_is_counted_as_such(path: str, body: dict[str, Any]) -> None:
    pipe = toy_pipeline(steps=8)
    gate = Gate(pipe)
    count = f'vqdiff_requests_total{{endpoint="{path}",status="499"}} 1.0'
    with serving(pipe) as (address, engine), client(address) as http:
        with post(address, path, json={"prompt": "1"} | body):
            gate.await_call()
            gate.let(5)
        wait_for(lambda: count in http.get("/metrics").text)
        gate.open()
        wait_for(lambda: engine.counts.cancelled == 1)
        assert f'endpoint="{path}",status="200"' not in http.get("/metrics").text


def test_head_is_answered(http: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
