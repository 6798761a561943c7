"""Generate and edit on a device without float64; prints what came of it as JSON. Argument: "some" runs, or "all".

A process of its own: a device that torch has been told of stays.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image, ImageDraw

# Inference mode does not know tensors that Python implements.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # type: ignore[assignment]

from no_float64 import DEVICE, Mode, device_without_float64  # noqa: E402
from toy_pipelines import toy_pipeline  # noqa: E402
from vqdiff.pipeline import Pipeline  # noqa: E402

SOME = {
    "modern": (
        "purity",
        "halton",
        "strided",
        "entropy-bound",
        "corrected",
        "renoised",
        "token-fixing",
        "posterior-guided",
        "weaker",
        "batch",
        "edit",
        "revise",
    ),
    "classic": ("purity",),
    "unconditional": ("stream",),
}
torch.set_num_threads(1)


def pipeline(kind: str) -> Pipeline:
    """A toy pipeline, whose weaker denoiser is its own with some noise."""
    pipe = toy_pipeline(kind)
    weaker = copy.deepcopy(pipe.model.denoiser)
    for weight in weaker.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 4)
    pipe.model.weaker_denoiser = weaker
    return pipe


def moved(pipe: Pipeline) -> Pipeline:
    model = copy.deepcopy(pipe.model)
    model.to(DEVICE)
    return Pipeline(model)


def runs(pipe: Pipeline) -> dict[str, Callable[[], Any]]:
    """What to run, by name; each returns images, or tokens."""
    label = None if pipe.model.num_classes is None else 1
    labels = None if label is None else [0, 3, 1]
    image, mask = Image.new("RGB", (32, 32), "white"), Image.new("L", (32, 32), 0)
    ImageDraw.Draw(image).ellipse((4, 4, 24, 24), fill=(200, 30, 40))
    ImageDraw.Draw(mask).rectangle((16, 0, 31, 31), fill=255)
    samplers = (
        "purity",
        "fewer-tokens",
        "confidence",
        "halton",
        "corrected",
        "renoised",
        "token-fixing",
        "strided",
        "posterior-guided",
        "ancestral",
    )
    samplers += ("reference-fast", "reference-fewer-tokens", "reference-purity")
    settings: Any = {"guidance": 1.0 if label is None else 3.0, "truncation": 0.9, "prior_scale": 1.5}
    found: dict[str, Callable[[], Any]] = {
        name: lambda name=name: pipe(label, seed=7, sampler=name, **settings) for name in samplers
    }
    return found | {
        # In one step, so that the order does not matter: rounding differs there, and here many entropies are equal.
        "entropy-bound": lambda: pipe(label, seed=7, sampler="entropy-bound", error=1000.0, **settings),
        "unguided": lambda: pipe(label, seed=7, guidance=1.0, truncation=1.0),
        "weaker": lambda: pipe(label, seed=7, **settings | {"guide": "weaker", "guidance": 3.0}),
        "batch": lambda: pipe(labels, num_images=2, seed=7, **settings),
        "edit": lambda: [pipe.edit(image, mask, label, seed=7, **settings)],
        "expand": lambda: [pipe.expand(image, label, right=8, seed=7, **settings)],
        "vary": lambda: pipe.vary(image, 0.5, label, seed=7, **settings),
        "revise": lambda: [pipe.revise(image, 0.5, label, seed=7, **settings)],
        "stream": lambda: [frame.image for frame in pipe.stream(label, seed=7, **settings)],
    }


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return [one.tobytes().hex() for one in function()]
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def session(mode: Mode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, some in SOME.items():
        on_device = runs(moved(pipeline(kind)))
        before = mode.operations
        for name in on_device if sys.argv[1] == "all" else some:
            found[f"{kind} {name}"] = outcome(on_device[name])
        found[f"operations of {kind}"] = mode.operations - before
    return found


def refused(function: Callable[[], Any]) -> str:
    try:
        return f"no error: {function()}"
    except (TypeError, RuntimeError) as error:
        return str(error)


with device_without_float64() as mode:
    x = torch.zeros(3, 4).to(DEVICE)
    checks = {
        "creating": refused(lambda: torch.zeros(3, dtype=torch.float64, device=DEVICE)),
        "converting": refused(lambda: x.double()),
        "sending": refused(lambda: torch.zeros(3, dtype=torch.float64).to(DEVICE)),
        "mixing": refused(lambda: x + torch.zeros(3, 4)),
    }
    there = session(mode)
operations = {kind: there.pop(f"operations of {kind}") for kind in SOME}
on_cpu = {kind: runs(pipeline(kind)) for kind in SOME}
expected = {key: outcome(on_cpu[key.split()[0]][key.split()[1]]) for key in there}
print(json.dumps({"checks": checks, "operations": operations, "there": there, "here": expected}))
