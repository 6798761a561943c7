"""Push and load models through the Hub's own client and a server on loopback; prints what came of it as JSON.

A process of its own, because the client reads HF_ENDPOINT and its like when it is imported. Argument: an empty folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_server import TOKEN, Hub, running_hub

FOLDER = Path(sys.argv[1])


def final_tokens(pipe: Any) -> list[int]:
    return [frame.tokens for frame in pipe.stream(3, seed=5)][-1].tolist()


def message(function: Callable[[], object]) -> str:
    from vqdiff.foundation.errors import InputError

    try:
        return f"no error: {function()}"
    except InputError as error:
        return str(error)


def session(hub: Hub) -> dict[str, Any]:
    import torch

    import vqdiff
    from toy_pipelines import toy_pipeline
    from vqdiff.cli import main

    torch.set_num_threads(1)
    toy = toy_pipeline()
    for part in (toy.model.denoiser, toy.model.image_tokenizer):
        part.load_state_dict({name: value.half() for name, value in part.state_dict().items()})
    toy.save(FOLDER / "toy")
    toy.model.card.name = "toy"
    (FOLDER / "toy" / "train.log").write_text("of its training")

    main(["push", str(FOLDER / "toy"), "ann/toy", "--dry-run", str(FOLDER / "dry")])
    found: dict[str, Any] = {"calls of a dry run": list(hub.calls)}
    main(["push", str(FOLDER / "toy"), "ann/toy", "--private"])
    found["files"] = {name: len(content) for name, content in hub.files("ann/toy").items()}
    dry = {path.relative_to(FOLDER / "dry").as_posix(): path for path in (FOLDER / "dry").rglob("*") if path.is_file()}
    found["as the dry run"] = {name: hub.files("ann/toy").get(name) == path.read_bytes() for name, path in dry.items()}
    found["private"] = hub.repos["ann/toy"]["private"]
    found["uploads"] = sum(call.startswith("PUT /lfs/") for call in hub.calls)

    local, loaded = vqdiff.load(FOLDER / "toy"), vqdiff.load("ann/toy")
    found["tokens"], found["tokens from the Hub"] = final_tokens(local), final_tokens(loaded)
    found["hashes"] = [vqdiff.load(FOLDER / "dry").model.fingerprint, loaded.model.fingerprint]

    other = toy_pipeline("classic")
    hub.commit("ann/toy", "main", {**hub.commits[hub.repos["ann/toy"]["branches"]["main"]], "notes.txt": b"mine",
                                   "LICENSES.md": b"MIT", "null_condition/config.json": b"{}"})  # fmt: skip
    found["commit"] = other.push_to_hub("ann/toy", revision="next", token=TOKEN)
    found["main is unchanged"] = vqdiff.load("ann/toy").model.denoiser.__class__ is loaded.model.denoiser.__class__
    cache = FOLDER / "cache"
    by_revision = vqdiff.Pipeline.from_pretrained("ann/toy", revision="next", cache_dir=cache, precision="float32")
    found["revision"] = type(by_revision.model.denoiser).__name__
    found["tokens of the revision"] = final_tokens(by_revision) == final_tokens(vqdiff.load("ann/toy@next"))
    found["cached"] = any(cache.rglob("model_index.json"))
    found["left in next"] = sorted(hub.files("ann/toy", "next"))

    found["wrong token"] = {
        "push": message(lambda: toy.push_to_hub("ann/toy", token="hf_wrong")),
        "load": message(lambda: vqdiff.Pipeline.from_pretrained("ann/toy", token="hf_wrong", cache_dir=FOLDER / "new")),
    }
    hub.read_only = True
    found["read only"] = message(lambda: toy.push_to_hub("ann/toy"))
    hub.read_only = False
    found["unknown"] = message(lambda: vqdiff.load("ann/other"))
    found["no such revision"] = message(lambda: vqdiff.load("ann/toy@other"))
    return found


with running_hub() as (address, hub):
    os.environ |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    os.environ |= {"HF_HOME": str(FOLDER / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    found = session(hub)

import huggingface_hub  # noqa: E402

import vqdiff  # noqa: E402
from toy_pipelines import toy_pipeline  # noqa: E402

huggingface_hub.close_session()  # with its open connections
found["down"] = {
    "push": message(lambda: toy_pipeline().push_to_hub("ann/toy")),
    "load": message(lambda: vqdiff.Pipeline.from_pretrained("ann/toy", cache_dir=FOLDER / "new")),
}
print(json.dumps(found))
