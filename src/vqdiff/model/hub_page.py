"""A model's page on the Hugging Face Hub, README.md with its metadata, and which files of a folder may be public."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.images import sheet
from vqdiff.model.components import exact_dtype
from vqdiff.model.model import Card, Model
from vqdiff.text import Condition

SAMPLES, LICENSES = "samples.png", "LICENSES.md"

_LICENSE_IDS = re.compile(
    r"mit|apache-2\.0|cc-by(-sa|-nc|-nd|-nc-sa|-nc-nd)?-[234]\.0|cc0-1\.0|bsd-[23]-clause|a?gpl-3\.0|l?gpl-[23]\.[01]|"
    r"mpl-2\.0|isc|unlicense|wtfpl|ofl-1\.1|pddl|odc-by|odbl|openrail|creativeml-openrail-m"
)
"""The Hub's identifiers of licences."""
_PUBLIC = re.compile(
    r"(model_index|config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|model\.safetensors\.index)"
    r"\.json|model(-\d+-of-\d+)?\.safetensors|(vocab|merges)\.txt|(README|LICENSE|LICENSES|NOTICE)(\.md|\.txt)?"
)
_WITH_PATHS = ("model_index.json", "config.json", "tokenizer_config.json")
_FOLDERS = re.compile(r"(?<![\w:/.\\~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:;,()'\"]+[/\\])+(?=[^\s/\\])")
"""The folders of an absolute path, as /home/ann/runs/ of /home/ann/runs/model.pth."""


@dataclass(frozen=True)
class Samples:
    """The images of a page: ``each`` images of every prompt, with seeds that count up from 0."""

    prompts: Sequence[str | int | None]
    each: int

    @property
    def seeds(self) -> str:
        """The seeds, in words."""
        return f"seeds 0 to {len(self.prompts) * self.each - 1}"


def samples_of(model: Model, prompts: Sequence[Condition] | None) -> Samples:
    """Return what to generate for a page: of these prompts, by default those of the card or the first labels.

    Raises InputError for a model conditioned on text without any prompt, and for a blend.
    """
    if model.conditioned_on == "nothing":
        return Samples([None], 8)
    if prompts is None and model.num_classes is not None:
        prompts = range(min(6, model.num_classes))
    if not (prompts := prompts or model.card.prompts):
        raise InputError("the model's card names no prompts for the samples on its page: give some")
    shown = [one for one in prompts if isinstance(one, str | int)]
    if len(shown) < len(prompts):
        raise InputError("the samples on a page have prompts or labels, not blends: leave these out")
    return Samples(shown, 2)


def save_for_hub(model: Model, folder: Path, repo: str, samples: Samples, images: list[Image.Image]) -> None:
    """Write the model folder and its page for ``repo``, owner/name on the Hub; ``images`` are those of ``samples``.

    Weights have 16 bits if that changes none of them. What belongs to no model, and local paths, are left out.
    """
    parts = (model.denoiser, model.weaker_denoiser, model.image_tokenizer, model.null_condition)
    dtype = exact_dtype(filter(None, parts))
    model = replace(model, card=Card(**_without_folders(vars(model.card))))
    with atomic_path(folder) as room:
        model.save(room, None if dtype == torch.float32 else dtype)
        for path in [path for path in room.rglob("*") if path.is_file()]:
            if _PUBLIC.fullmatch(path.name) is None:  # such as an optimizer's state beside a text encoder
                path.unlink()
            elif path.name in _WITH_PATHS:
                text = path.read_text("utf-8")
                if (public := _without_folders(values := json.loads(text))) != values:
                    path.write_text(json.dumps(public, indent=2, ensure_ascii=False) + "\n", "utf-8")
        sheet(images, columns=6).save(room / SAMPLES)
        (room / "README.md").write_text(page(model, repo, samples), "utf-8")
        if model.card.licenses:
            (room / LICENSES).write_text(f"# Licences\n\n{_licenses(model.card)}\n", "utf-8")


def page(model: Model, repo: str, samples: Samples) -> str:
    """Return README.md: metadata in YAML for the Hub, then a text in Markdown."""
    metadata = yaml.safe_dump(_metadata(model, repo), sort_keys=False, allow_unicode=True, width=100)
    card, codec, own = model.card, model.image_tokenizer, model.sampling
    size, side, codes = codec.config.image_size, codec.grid_size, model.schedule.num_codes
    first = "" if model.conditioned_on == "nothing" else f"{samples.prompts[0]!r}, "
    shown = ", ".join(f"`{one}`" for one in samples.prompts if one is not None)
    settings = f"{own.sampler}, {own.steps} steps, guidance {own.guidance:g}, truncation {own.truncation:g}"
    parts = [
        f"---\n{metadata}---",
        f"# {_name(card, repo)}",
        f"{_summary(model)} of {size} × {size} pixels, for vqdiff: discrete diffusion over {side} × {side} image "
        f"tokens of {codes} codes.",
        "```python\n# pip install vqdiff\nimport vqdiff\n\n"
        f'pipe = vqdiff.load("{repo}")\npipe({first}seed=0)[0].save("out.png")\n```',
        "## Samples",
        f"![Samples]({SAMPLES})",
        f"Not selected: {samples.seeds}, from left to right and top to bottom, with the model's own settings "
        f"({settings})." + (f" {samples.each} images each of {shown}." if shown else ""),
        "## Limitations",
        "\n".join(f"- {line}" for line in _limitations(model)),
        "## Training data",
        card.trained_on or "The authors have not described it.",
    ]
    if metrics := list(_metrics(card.quality)):
        rows = [("what", "value", "protocol"), ("---",) * 3]
        rows += [(name, f"{value:.4g}", protocol) for name, value, protocol in metrics]
        columns = 3 if any(protocol for _, _, protocol in metrics) else 2
        parts += ["## Measured", "\n".join(f"| {' | '.join(row[:columns])} |" for row in rows)]
    if card.origin or card.notes:
        lines = [f"- {part}: {origin}" for part, origin in card.origin.items()] + [f"- {note}" for note in card.notes]
        parts += ["## Origin of the parts", "\n".join(lines)]
    return "\n\n".join([*parts, "## Licences", _licenses(card)]) + "\n"


def _metadata(model: Model, repo: str) -> dict[str, Any]:
    card, task = model.card, "text-to-image" if model.conditioned_on == "text" else "unconditional-image-generation"
    tags = ["vqdiff", "vq-diffusion", "discrete-diffusion"]
    values: dict[str, Any] = {"library_name": "vqdiff", "pipeline_tag": task}
    if len(ids := _license_ids(card)) > 1 or ids == ["other"]:
        values |= {"license": "other", "license_name": "-and-".join(ids), "license_link": LICENSES}
    elif ids:
        values["license"] = ids[0]
    values["tags"] = [*tags, "class-conditional"] if model.conditioned_on == "labels" else tags
    if card.datasets:
        values["datasets"] = list(card.datasets)
    if metrics := list(_metrics(card.quality)):
        data = {"name": card.datasets[0] if card.datasets else "held-out images of the training set"}
        data["type"] = card.datasets[0] if card.datasets else "held-out"
        found = [
            {"type": name, "value": value, "name": name} | ({"args": {"protocol": protocol}} if protocol else {})
            for name, value, protocol in metrics
        ]
        values["model-index"] = [
            {"name": _name(card, repo), "results": [{"task": {"type": task}, "dataset": data, "metrics": found}]}
        ]
    return values


def _metrics(quality: Mapping[str, Any], name: str = "", protocol: str = "") -> Iterator[tuple[str, float, str]]:
    """Yield name, value, and the hash of the protocol of each measured number; nested names are joined by dots."""
    protocol = next((str(quality[key]) for key in ("protocol", "hash") if isinstance(quality.get(key), str)), protocol)
    for key, value in quality.items():
        full = f"{name}.{key}" if name else key
        if isinstance(value, Mapping) and isinstance(value.get("mean"), int | float):
            yield full, float(value["mean"]), protocol
        elif isinstance(value, Mapping):
            yield from _metrics(value, full, protocol)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield full, float(value), protocol


def _license_ids(card: Card) -> list[str]:
    """Return the Hub's identifiers of the licences, "other" for what it has none for; each once, in order."""
    words = (text.split()[0].strip(",;.()").lower() if text.strip() else "" for text in card.licenses.values())
    return list(dict.fromkeys(word if _LICENSE_IDS.fullmatch(word) else "other" for word in words))


def _licenses(card: Card) -> str:
    if not card.licenses:
        return "The authors have not named any: ask them before you use the model."
    return "\n".join(["| source | licence |", "|---|---|", *(f"| {a} | {b} |" for a, b in card.licenses.items())])


def _summary(model: Model) -> str:
    if model.text_encoder is not None:
        return "Text → images"
    return (
        f"Labels 0 to {model.num_classes - 1} → images" if model.num_classes else "Unconditional generation of images"
    )


def _name(card: Card, repo: str) -> str:
    return card.name if card.name != "unnamed" else repo.partition("/")[2]


def _limitations(model: Model) -> Iterator[str]:
    if model.card.limitations:
        yield model.card.limitations
    size = model.image_tokenizer.config.image_size
    psnr = model.card.quality.get("psnr")
    finest = f" (PSNR {psnr:.1f} dB)" if isinstance(psnr, int | float) else ""
    yield f"Images have {size} × {size} pixels; details that the image tokenizer's codes do not hold{finest} are lost."
    if model.text_encoder is not None:
        yield f"A prompt has at most {model.text_encoder.max_tokens} word pieces, which include those at both ends."
    if model.null_condition is None and model.conditioned_on == "text":
        yield "There is no null condition: guidance is not possible."
    yield "A seed gives the same image on one machine; another processor, precision or PyTorch rounds differently."
    yield "Generated images reproduce the biases of the training data."


def _without_folders(value: Any) -> Any:
    """Return JSON values with absolute paths in its texts shortened to the names of their files."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_folders(one) for one in value)
    return value
