"""``vqdiff measure-curve``: a copy of a model that knows its reveal curve `measured`."""

from __future__ import annotations

from vqdiff.cli.options import Output
from vqdiff.foundation.extras import READING, require
from vqdiff.foundation.options import whole


def measure_curve(
    model: str,
    data: str,
    *,
    output: Output,
    split: str | None = None,
    images: int = 256,
    validation: float = 0.02,
    device: str = "auto",
) -> None:
    """Measure how hard tokens are to predict when few or many are masked, for the reveal curve measured.

    Writes a copy of the model with the measurement; --curve measured then takes the steps that lose the least by it.

    Parameters
    ----------
    model
        A bundled model's name, a model folder, the folder of a run, or a Hub id.
    data
        A folder of images, parquet files or tars; or hub:owner/name on the Hugging Face Hub.
    output
        The folder to write; it may be that of the model.
    split
        The images to measure with (default: the held-out ones).
    images
        How many of them, evenly spaced.
    validation
        The share of the images that is held out, if the set has no other split than train.
    device
        auto, cpu, cuda or mps.
    """
    require("reading a set", "train", *READING)
    whole("--images", images, least=1)

    import json
    import shutil

    from vqdiff.checkpoints import kind_of
    from vqdiff.data import check_share, held_out_split, load
    from vqdiff.evaluation.reveal_curve import losses, measure_masked_nll
    from vqdiff.foundation.errors import InputError
    from vqdiff.foundation.files import atomic_path, check_replaceable, read_json
    from vqdiff.foundation.progress import track
    from vqdiff.model.finding import find
    from vqdiff.pipeline import load as load_pipeline

    check_share(validation)
    check_replaceable(output)
    folder = find(model)
    if (kind := kind_of(folder)) != "model folder":
        raise InputError(f"{model} is a {kind}: make a model folder of it first, with vqdiff convert")
    parts = load_pipeline(folder, device=device).model
    split = split or held_out_split(data)
    size = parts.image_tokenizer.config.image_size
    pictures = load(data, split, size, parts.class_names, validation=validation)
    count = min(images, len(pictures))
    found = measure_masked_nll(parts, pictures, count, lambda starts: track(starts, "measuring", len(starts)))
    with atomic_path(output) as path:
        shutil.copytree(folder, path)
        index = read_json(path / "model_index.json") | {"masked_nll": list(found)}
        (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{output}: written; {found[0]:.3g} nats for a token masked alone, {found[-1]:.3g} with all ({count} images)")
    steps = parts.sampling.steps
    lost = ", ".join(f"{name} {value:.4g}" for name, value in losses(found, parts.num_tokens, steps).items())
    print(f"nats lost in {steps} steps: {lost}")
