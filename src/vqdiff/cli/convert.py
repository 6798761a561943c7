"""``vqdiff convert``: other people's checkpoints → model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def convert(
    source: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    image_tokenizer: Path | None = None,
    code_map: Path | None = None,
    text_encoder: Path | None = None,
    heads: int | None = None,
    grid_size: int | None = None,
    null_class: bool | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Make a model folder of a checkpoint of another project.

    Parameters
    ----------
    source
        An original VQ-Diffusion checkpoint (.pth).
    output
        The folder to write.
    image_tokenizer
        The file of its image codec, where the checkpoint does not hold it.
    code_map
        The table between the codec's codes and the model's; by default the one that fits beside the codec.
    text_encoder
        OpenAI's CLIP file, to be used in place of the CLIP inside.
    heads
        Attention heads, where the model is none of the published ones.
    grid_size
        Tokens along a side, likewise.
    null_class
        The class tables end in a row for "no class".
    dtype
        The type of the denoiser's and the codec's weights in the folder.
    """
    import torch

    from vqdiff.checkpoints import read_model

    model = read_model(
        source,
        {
            "image_tokenizer": image_tokenizer,
            "code_map": code_map,
            "text_encoder": text_encoder,
            "heads": heads,
            "grid_size": grid_size,
            "null_class": null_class,
        },
        dtype=getattr(torch, dtype),
    )
    model.save(output, getattr(torch, dtype))
    for part, origin in model.card.origin.items():
        print(f"{part}: {origin}")
    for note in model.card.notes:
        print(f"note: {note}")
    print(f"{output}: written")
