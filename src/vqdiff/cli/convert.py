"""``vqdiff convert``: checkpoints of other projects → model folders, or models → diffusers folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vqdiff.cli.options import Output


def convert(
    source: str,
    *,
    output: Output,
    to: Literal["vqdiff", "diffusers"] = "vqdiff",
    image_tokenizer: Path | None = None,
    code_map: Path | None = None,
    text_encoder: Path | None = None,
    heads: int | None = None,
    grid_size: int | None = None,
    null_class: bool | None = None,
    weaker: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Convert another project's model to a model folder, or any model to a diffusers folder.

    Parameters
    ----------
    source
        An original VQ-Diffusion checkpoint or image codec (.pth), a diffusers folder, a Hub id, or a model folder.
    output
        The folder to write.
    to
        What to write: a model folder, or a folder for diffusers' VQDiffusionPipeline.
    image_tokenizer
        The file of its image codec, if the checkpoint does not contain it.
    code_map
        The table between the codec's codes and the model's (default: the matching one beside the codec).
    text_encoder
        OpenAI's CLIP file, to use instead of the CLIP inside.
    heads
        Attention heads, if the model is not one of the published ones.
    grid_size
        Tokens along a side, if the model is not one of the published ones.
    null_class
        Whether the class tables end in a row for "no class".
    weaker
        A weaker model of the same image tokenizer, such as one trained for less long; its denoiser becomes what the
        guide weaker leads away from.
    dtype
        The type of the denoiser's and the codec's weights in the folder.
    """
    import torch

    from vqdiff.checkpoints import read, read_model
    from vqdiff.checkpoints.to_diffusers import write
    from vqdiff.foundation.errors import InputError
    from vqdiff.foundation.files import atomic_path, check_replaceable
    from vqdiff.model import Model, save_component
    from vqdiff.model.finding import find

    check_replaceable(output)
    kind: torch.dtype = getattr(torch, dtype)
    model = read(
        find(source),
        {
            "image_tokenizer": image_tokenizer,
            "code_map": code_map,
            "text_encoder": text_encoder,
            "heads": heads,
            "grid_size": grid_size,
            "null_class": null_class,
        },
        dtype=kind,
    )
    notes: list[str] = []
    if weaker is not None:
        if not isinstance(model, Model):
            raise InputError(f"{source} is only an image tokenizer, which needs no weaker denoiser: leave out --weaker")
        model = model.with_weaker(read_model(find(weaker), {}, dtype=kind))
    if isinstance(model, Model):
        if to == "diffusers":
            notes += [f"not in the new folder: {lost}" for lost in write(model, output, kind)]
        else:
            model.save(output, kind)
        for part, origin in model.card.origin.items():
            print(f"{part}: {origin}")
        notes = [*model.card.notes, *notes]
    elif to == "diffusers":
        raise InputError(f"{source} is only an image tokenizer: a diffusers folder needs the whole model")
    else:
        with atomic_path(output) as path:
            save_component(model, path, kind)
    for note in notes:
        print(f"note: {note}")
    print(f"{output}: written")
