"""As many steps as fit in a number of seconds, by the measured time of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic

import torch

from vqdiff.foundation.errors import InputError
from vqdiff.model import Job
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import run

__all__ = ["Pace", "measure"]

_TIMED = 3
"""Steps to time, after a first one."""
_LAST = 2
"""The most steps to end in: that of reference-fast is followed by one at t = 1."""


@dataclass(frozen=True)
class Pace:
    """Seconds that the batches of a job take: one step of them all, and to decode the images."""

    step: float
    decoding: float

    def steps(self, seconds: float, most: int) -> int:
        """Return how many steps, at most ``most``, are likely to be finished and decoded after ``seconds``.

        Raises InputError if not even one is.
        """
        if seconds < self.step + self.decoding:
            raise InputError(
                f"the budget is {seconds:g} s, and one step takes {self.step:.3f} s and decoding {self.decoding:.3f} "
                "s: allow more time, or generate fewer images"
            )
        return min(most, int((seconds - self.decoding) / self.step))


@torch.inference_mode()
def measure(pipe: Pipeline, job: Job, batch_size: int = 8) -> Pace:
    """Time some steps and the decoding of a job's first batch, for all its batches.

    Raises InputError for a sampler that cannot end early, and for a job with candidates, whose number of steps is not
    the only thing that counts.
    """
    if job.settings.best_of > 1:
        raise InputError(
            f"best_of is {job.settings.best_of}, and a budget is for steps without candidates: leave out one of them"
        )
    part = next(job.parts(batch_size))
    begun = list[float]()
    tokens = None
    settings = replace(part.settings, steps=min(_TIMED + 1, pipe.model.num_tokens), error=0.0)
    batch, bound = replace(part, settings=settings).start(pipe.model), part.bind(pipe.model)
    if batch.last().plan.num_steps > _LAST:
        raise InputError(
            f"the sampler {settings.sampler} cannot end early, so it has no budget: use another, such as purity"
        )
    began = monotonic()
    for frame in run(batch, bound):
        tokens = frame.tokens.cpu()  # waits for the device
        begun.append(monotonic())
    assert tokens is not None
    pipe.decode(tokens[:1])
    start = monotonic()
    pipe.decode(tokens[:1])
    images = len(job.seeds) / len(part.seeds)
    step = (begun[-1] - begun[0]) / (len(begun) - 1) if len(begun) > 1 else begun[0] - began
    return Pace(step * images, (monotonic() - start) * len(job.seeds))
