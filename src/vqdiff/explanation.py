"""Why an image looks as it does: what each step revealed, how confidently, and what the prompt had to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor

from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.images import heat_map, sheet
from vqdiff.foundation.options import WholeNumber, checked
from vqdiff.foundation.shapes import Float, Int
from vqdiff.pipeline import Pipeline
from vqdiff.requests import DrawRequest
from vqdiff.sampling import Frame, Trace
from vqdiff.settings import CallSettings
from vqdiff.text import Condition

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """One image and the record of its sampling; h × w is the grid of its tokens, row by row.

    trace: all steps (`vqdiff.sampling.Trace`, B = 1). influence: for each token, when it was revealed, log p(token |
    prompt) − log p(token | ∅) in nats, or the negative prompt in place of ∅: how much more probable the prompt made it.
    It is 0 where a step was not guided. record: how the image was made, to be kept with it.
    """

    image: Image.Image
    trace: Trace
    influence: Float[Tensor, "h w"]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def reveal_step(self) -> Int[Tensor, "h w"]:
        """The step, from 1 on, in which each token was revealed for good; 0 if it was never masked."""
        return self.trace.reveal_step()[0].view(self.influence.shape)

    @property
    def confidence(self) -> Float[Tensor, "h w"]:
        """The network's confidence in each position at the step that revealed it, in [0, 1]."""
        at = self.reveal_step.flatten().sub(1).clamp_min(0)
        return self.trace.confidence[:, 0].gather(0, at[None])[0].view(self.influence.shape)

    def most_explained(self, number: int = 5) -> list[dict[str, Any]]:
        """Return the tokens that the prompt made most probable: row, column, pixels as left, top, …, and nats."""
        values, places = self.influence.flatten().sort(descending=True, stable=True)
        side, pixels = self.influence.shape[1], self.image.width // self.influence.shape[1]
        found = list[dict[str, Any]]()
        for value, place in zip(values[:number].tolist(), places[:number].tolist(), strict=True):
            row, column = divmod(place, side)
            corner = (column * pixels, row * pixels)
            box = [*corner, corner[0] + pixels, corner[1] + pixels]
            found.append({"row": row, "column": column, "pixels": box, "nats": round(value, 3)})
        return found

    def summary(self) -> Mapping[str, Any]:
        """Return in numbers, for JSON: each step's revealed tokens and confidence, and the `most_explained` tokens."""
        steps = list[dict[str, Any]]()
        for i, (revealed, confidence) in enumerate(zip(self.trace.revealed, self.trace.confidence, strict=True), 1):
            own = confidence[revealed]
            mean = None if len(own) == 0 else round(float(own.mean()), 3)
            whole = round(float(confidence.mean()), 3)
            steps.append({"step": i, "revealed": len(own), "confidence": mean, "confidence_of_all": whole})
        return {"steps": steps, "most_explained_by_the_prompt": self.most_explained()}

    def maps(self) -> Image.Image:
        """Return three maps side by side, bright for much: order of reveal (first is bright), confidence, influence."""
        order = 1 - (self.reveal_step - 1).clamp_min(0) / len(self.trace.revealed)
        influence = self.influence.clamp_min(0)
        parts = (order, self.confidence, influence / influence.max().clamp_min(1e-6))
        return sheet([heat_map(one, self.image.size) for one in parts], len(parts))


@torch.inference_mode()
def explain(
    pipe: Pipeline,
    prompt: Condition = None,
    *,
    seed: WholeNumber = 0,
    negative: Condition = None,
    **changes: Unpack[CallSettings],
) -> Explanation:
    """Generate the image that ``pipe(prompt, seed=seed, …)`` gives, and record how; errors as there.

    Also raises InputError for a guide other than null, with which the network is not asked what it predicts without the
    prompt.
    """
    given = checked(DrawRequest, {"seed": seed})
    job = DrawRequest(prompts=prompt, negative=negative, settings=pipe.settings(**changes), **given).job(pipe.model)
    if not job.references(pipe.model) <= {"null"}:
        with about("guide"):
            raise InputError(
                f"guide is {job.settings.guide}, and the influence of the prompt is measured against the null "
                "condition: use the guide null"
            )
    frames = list(pipe.frames(job.conditions, job.seeds, job.settings, job.negative))
    trace, side = Trace.collect(frames), pipe.model.image_tokenizer.grid_size
    influence = torch.zeros(side * side)
    for frame in frames:
        found = _influence(frame).float().cpu()
        influence = torch.where(frame.revealed[0].cpu(), found, influence)
    trace = Trace(trace.tokens.cpu(), trace.revealed.cpu(), trace.confidence.float().cpu())
    return Explanation(pipe.decode(frames[-1].tokens)[0], trace, influence.view(side, side), job.record_of(0))


def _influence(frame: Frame) -> Float[Tensor, "L"]:
    """Return the difference that the condition made to the log-probability of the tokens after a step; 0 at MASK."""
    cond, null = (one[0].float().log_softmax(-1) for one in frame.prediction.pair())
    tokens = frame.tokens[0]
    known = tokens < cond.shape[-1]
    index = torch.where(known, tokens, 0)[:, None]
    return torch.where(known, (cond - null).gather(1, index)[:, 0], 0)
