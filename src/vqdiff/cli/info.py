"""``vqdiff info``: what a model is."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def info(model: str = "emoji", *, json_output: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Say what a model is: parts, sizes, licences, measured quality.

    Parameters
    ----------
    model
        A bundled model's name, a model folder, or an original checkpoint (.pth).
    json_output
        Print JSON.
    """
    import dataclasses
    import json

    from vqdiff.checkpoints import read_model
    from vqdiff.pipeline import find

    parts = read_model(find(model), {}, shapes_only=True)  # nothing but names and shapes
    networks = {"denoiser": parts.denoiser, "image_tokenizer": parts.image_tokenizer}
    if parts.text_encoder is not None:
        networks["text_encoder"] = parts.text_encoder.model
    record = {
        **dataclasses.asdict(parts.card),
        "hash": parts.fingerprint,
        "tokens": parts.num_tokens,
        "codes": parts.schedule.num_codes,
        "diffusion_steps": parts.schedule.num_steps,
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in networks.items()},
        "default_settings": dataclasses.asdict(parts.sampling),
    }
    if json_output:
        print(json.dumps(record, ensure_ascii=False))
        return
    for key, value in record.items():
        print(f"{key}: " + (", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)))
