"""The text `parameters` that galleries of images show: written from a record of how an image was made, and read again.

The format is the one that AUTOMATIC1111's web UI stores in its images: the prompt, the negative prompt, and a line of
settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NEGATIVE = "Negative prompt: "
_NAMES = {
    "steps": "Steps",
    "sampler": "Sampler",
    "guidance": "CFG scale",
    "seed": "Seed",
    "strength": "Denoising strength",
    "size": "Size",
    "model": "Model",
    "model_hash": "Model hash",
    "version": "Version",
}
_QUOTED = r'"(?:\\.|[^\\"])*"'
_SETTING = re.compile(rf"\s*(\w[\w \-/]+):\s*({_QUOTED}|[^,]*)(?:,|$)")


def parameters(record: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Return the text `parameters` of an image of ``size`` (width and height in pixels).

    record: what an image contains about how it was made. Several prompts are lines of the text; a label is its number.
    """
    given = record.get("prompts", [record.get("prompt")])
    prompts = [str(one["first"] if isinstance(one, Mapping) else one) for one in given if one is not None]
    negative = record.get("negative")
    values = {**record, "size": f"{size[0]}x{size[1]}", "version": f"vqdiff {record.get('version', '')}".strip()}
    settings = [f"{name}: {_quoted(values[key])}" for key, name in _NAMES.items() if values.get(key) is not None]
    avoided = [] if negative is None else [f"{_NEGATIVE}{negative}"]
    return "\n".join([*prompts, *avoided, ", ".join(settings)])


def parse_parameters(text: str) -> dict[str, Any]:
    """Return the record in a text `parameters`, as far as it goes, also of one that another program wrote.

    prompts: the prompt, as a list of one; none if it is empty. seed and steps are integers, guidance and strength
    numbers; negative, sampler, size, model, model_hash and version are text. What is absent, or no number where one is
    needed, is left out.
    """
    *lines, last = text.strip().split("\n")
    settings = dict(_SETTING.findall(last))
    if not {"Steps", "Seed", "Sampler", "Size"} & settings.keys():
        lines, settings = [*lines, last], {}
    start = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE.strip())), len(lines))
    record: dict[str, Any] = {}
    if prompt := "\n".join(lines[:start]).strip():
        record["prompts"] = [prompt]
    if negative := "\n".join(lines[start:]).removeprefix(_NEGATIVE.strip()).strip():
        record["negative"] = negative
    for key, name in _NAMES.items():
        if (value := _unquoted(settings.get(name, ""))) == "":
            continue
        if key not in ("steps", "seed", "guidance", "strength"):
            record[key] = value
        elif (number := _number(value, whole=key in ("steps", "seed"))) is not None:
            record[key] = number
    return record


def _quoted(value: object) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search('[,:"\n]', text) else text


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _number(text: str, *, whole: bool) -> int | float | None:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return None
