"""``vqdiff push``: share a model on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def push(
    model: str,
    repo: str,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    revision: str | None = None,
    prompt: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    dry_run: Path | None = None,
    image_tokenizer: Path | None = None,
    device: str = "auto",
) -> None:
    """Upload a model to the Hugging Face Hub, with a page that has samples, limitations and licences.

    The token is that of `hf auth login`, or HF_TOKEN.

    Parameters
    ----------
    model
        A bundled model's name, a model, run or diffusers folder, an original checkpoint (.pth), or a Hub id.
    repo
        The repository, owner/name; it is created if it is missing.
    private
        Create it as a private one.
    revision
        The branch to upload to (default: main); it is created if it is missing.
    prompt
        A prompt or label of the samples on the page, instead of those of the model's card. May be repeated.
    dry_run
        Write what would be uploaded to this folder, and use no network.
    image_tokenizer
        The image codec's file, if a checkpoint does not contain it.
    device
        Where the samples are generated: auto, cpu, cuda or mps.
    """
    from vqdiff.foundation.files import check_replaceable
    from vqdiff.model.hub import check_name, check_push
    from vqdiff.pipeline import load

    check_name(repo)
    if dry_run is not None:
        check_replaceable(dry_run)
    pipe = load(model, device=device, image_tokenizer=image_tokenizer)
    if dry_run is None:
        check_push(repo)
        print(pipe.push_to_hub(repo, private=private, revision=revision, prompts=prompt or None))
    else:
        pipe.save_for_hub(dry_run, repo, prompts=prompt or None)
        print(f"{dry_run}: written; without --dry-run it would be uploaded to {repo}")
