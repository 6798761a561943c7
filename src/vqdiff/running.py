"""Run jobs on a model: job → steps → finished tokens → images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import to_images
from vqdiff.foundation.shapes import Float, Int
from vqdiff.model import Job, Model
from vqdiff.ranking import Choice, choose
from vqdiff.sampling import Frame, run

OnStep = Callable[[int, int], object]
"""Called after every step with the network calls for all images until now, and with a total."""


def unseen(done: int, total: int) -> None:
    """Show nobody the progress."""


@torch.inference_mode()
def images(model: Model, job: Job, batch_size: int, on_step: OnStep = unseen) -> list[Image.Image]:
    """Generate the images of a job, ``batch_size`` rows together; the total is that for all images."""
    found = list[Image.Image]()
    for part in job.parts(max(1, batch_size // job.settings.best_of)):

        def report(done: int, total: int, before: int = len(found)) -> None:
            on_step(before * total + done, len(job.seeds) * total)

        found += [job.finish(one) for one in decode(model, tokens(model, part, report))]
    return found


@torch.inference_mode()
def tokens(model: Model, job: Job, on_step: OnStep = unseen) -> Int[Tensor, "N L"]:
    """Sample all images of a job together and return their finished tokens; the total is that for one image."""
    if job.settings.best_of > 1:
        return _choose(model, job, on_step).tokens
    frame = None
    for frame in frames(model, job):
        on_step(frame.step * len(job.seeds), frame.steps)
    assert frame is not None  # every sampler takes a step
    return frame.tokens


@torch.inference_mode()
def frames(model: Model, job: Job) -> Iterator[Frame]:
    """Take the steps of a job, as tensors; with candidates, all are sampled first, and the best ones then again."""
    if job.settings.best_of > 1:
        job = job.chosen(_choose(model, job).candidates)
    frame = None
    for frame in run(job.start(model), job.bind(model), job.seconds, job.calls):
        yield frame
    if frame is not None:
        check_finished(model, frame.tokens, job.settings.sampler)


def _choose(model: Model, job: Job, on_step: OnStep = unseen) -> Choice:
    choice = choose(job, model, on_step)
    check_finished(model, choice.tokens, job.settings.sampler)
    return choice


def check_finished(model: Model, tokens: Int[Tensor, "B L"], sampler: str) -> None:
    """Raise InputError if a ``sampler`` of the caller's own has left MASK in tokens that should be finished."""
    if left := int((tokens == model.schedule.num_codes).sum()):
        raise InputError(
            f"the sampler {sampler!r} has left {left} of {tokens.numel()} tokens masked: its plan "
            "must end at t = 0, with all positions revealed"
        )


@torch.inference_mode()
def decode(model: Model, tokens: Int[Tensor, "B L"]) -> list[Image.Image]:
    """Decode finished tokens to images."""
    # One by one: in another batch, convolutions round differently, enough to change 8-bit values.
    return [to_images(model.image_tokenizer.decode(one[None]))[0] for one in tokens.to(model.device)]


@torch.inference_mode()
def preview(model: Model, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
    """Decode tokens of which some are still MASK; the patches of those are light grey."""
    tokens = tokens.to(model.device)
    masked = tokens == model.schedule.num_codes
    pixels = model.image_tokenizer.decode(tokens.masked_fill(masked, 0))
    side = model.image_tokenizer.grid_size
    patch = pixels.shape[-1] // side
    hidden = masked.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return pixels.masked_fill(hidden, 0.9)
