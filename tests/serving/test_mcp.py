"""The tools for language models, as the protocol's own client calls them: in this process, and over a pipe."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from PIL import Image, ImageDraw

from toy_pipelines import toy_pipeline
from vqdiff.serving.mcp_server import create_server


def image_of(content: Any) -> Image.Image:
    assert content.type == "image"
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def pixels(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def in_base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def with_client(use: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Client(create_server({"toy0": toy_pipeline(), "toy1": toy_pipeline("unconditional")})) as client:
            await use(client)

    asyncio.run(run())


def test_over_a_pipe(tmp_path: Path) -> None:
    pipe = toy_pipeline()
    pipe.save(tmp_path / "toy")
    command = ["-m", "vqdiff", "mcp", "--model", f"toy={tmp_path / 'toy'}", "--device", "cpu", "--precision", "float32"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    server, progress = StdioServerParameters(command=sys.executable, args=command, env=environment), list[float]()

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async def run() -> None:
        async with Client(server) as client:
            assert [one.name for one in (await client.list_tools()).tools] == ["draw", "edit", "explain", "models"]
            result = await client.call_tool("draw", {"prompt": "2", "seed": 5, "n": 2}, progress_callback=note)
            assert not result.is_error
            first, numbers, second, _ = result.content
            # The saved model is packed when it is loaded, which rounds differently.
            assert image_of(first).size == image_of(second).size == (32, 32)
            assert json.loads(image_of(second).info["vqdiff"])["seed"] == 6
            assert json.loads(numbers.text) == {"image": 1, "seed": 5}
            assert "steps: " in (await client.call_tool("draw", {"prompt": "2", "steps": "x"})).content[0].text

    asyncio.run(run())
    assert progress == sorted(progress)
    assert progress[-1] == 8


def test_draw_and_edit_what_was_drawn() -> None:
    pipe = toy_pipeline()

    async def use(client: Client) -> None:
        drawn, _ = (await client.call_tool("draw", {"prompt": "2", "negative": "1", "seed": 5, "steps": 2})).content
        image = pipe("2", negative="1", seed=5, steps=2)[0]
        assert pixels(image_of(drawn)) == pixels(image)
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).rectangle((0, 8, 15, 23), fill=255)
        wanted = pixels(pipe.edit(image, mask, "1", seed=3))
        for given in ({"image": 1, "region": [0, 8, 16, 24]}, {"image": in_base64(image), "mask": in_base64(mask)}):
            edited = (await client.call_tool("edit", {"prompt": "1", "seed": 3} | given)).content
            assert pixels(image_of(edited[0])) == wanted
        varied = (await client.call_tool("edit", {"prompt": "1", "seed": 3, "image": 1, "strength": 0.5})).content
        assert pixels(image_of(varied[0])) == pixels(pipe.vary(image, 0.5, "1", seed=3)[0])
        assert json.loads(varied[1].text)["image"] == 4

    with_client(use)


def test_explain_and_models() -> None:
    async def use(client: Client) -> None:
        image, maps, numbers = (await client.call_tool("explain", {"prompt": "2", "seed": 5})).content
        assert pixels(image_of(image)) == pixels(toy_pipeline()("2", seed=5)[0])
        drawn = (await client.call_tool("draw", {"prompt": "2", "seed": 5})).content[0]
        assert image_of(image).info["vqdiff"] == image_of(drawn).info["vqdiff"]
        assert image_of(maps).width > 3 * 32
        summary = json.loads(numbers.text)
        assert [one["step"] for one in summary["steps"]] == [1, 2, 3, 4]
        assert len(summary["most_explained_by_the_prompt"]) == 5
        listed = json.loads((await client.call_tool("models")).content[0].text)
        assert listed["models"]["toy0"]["settings"]["steps"] == 4
        assert listed["models"]["toy0"]["presets"]["fast"] == {"steps": 2}
        fast = (await client.call_tool("draw", {"prompt": "2", "seed": 5, "preset": "fast"})).content[0]
        assert pixels(image_of(fast)) == pixels(toy_pipeline()("2", seed=5, preset="fast")[0])
        assert "purity" in listed["samplers"]
        unconditional = (await client.call_tool("draw", {"model": "toy1", "seed": 5})).content[0]
        assert pixels(image_of(unconditional)) == pixels(toy_pipeline("unconditional")(seed=5)[0])

    with_client(use)


@pytest.mark.parametrize(
    ("tool", "given", "says"),
    [
        ("draw", {}, "no prompt"),
        ("draw", {"prompt": "9"}, "labels run from 0 to 4"),
        ("draw", {"prompt": "2", "n": 5}, "give 1 to 4 images"),
        ("draw", {"prompt": "2", "steps": 1.5}, "steps: Input should be a valid integer"),
        ("draw", {"prompt": "2", "colour": "red"}, "colour: Extra inputs are not permitted"),
        ("draw", {"prompt": "2", "sampler": "purty"}, "did you mean 'purity'"),
        ("draw", {"prompt": "2", "model": "sdxl"}, "choose one of toy0, toy1"),
        ("edit", {"image": 7, "strength": 0.5}, "there is no image 7: none is in this session"),
        ("edit", {"image": in_base64(Image.new("RGB", (600, 8))), "strength": 0.5}, "may have 512"),
        ("edit", {"image": in_base64(Image.new("RGB", (32, 32)))}, "give one of region, mask and strength"),
        ("edit", {"image": in_base64(Image.new("RGB", (32, 32))), "region": [0, 0, 33, 8]}, "within 32×32 pixels"),
        ("explain", {"prompt": "2", "n": 2}, "n: Input should be less than or equal to 1"),
        ("paint", {}, "choose one of draw, edit, explain, models"),
    ],
)
def test_mistakes_are_errors_of_the_tool_in_one_line(tool: str, given: dict[str, Any], says: str) -> None:
    async def use(client: Client) -> None:
        result = await client.call_tool(tool, given)
        assert result.is_error
        (content,) = result.content
        assert content.type == "text"
        assert says in content.text
        assert "\n" not in content.text

    with_client(use)


def test_large_images_are_sent_as_jpeg() -> None:
    async def use(client: Client) -> None:
        image = in_base64(Image.effect_noise((512, 512), 90).convert("RGB"))
        result = await client.call_tool("edit", {"image": image, "region": [0, 0, 32, 32], "prompt": "2"})
        assert result.content[0].mime_type == "image/jpeg"
        assert len(result.content[0].data) < 400_000
        assert image_of(result.content[0]).size == (512, 512)

    with_client(use)
