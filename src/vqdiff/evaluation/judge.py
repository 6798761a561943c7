"""Measure cells: generate images for the captions of a trial, score them, and store both."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vqdiff
from vqdiff.data import ImageSet, load
from vqdiff.data.rows import captioned
from vqdiff.denoisers.packed import precision_of
from vqdiff.evaluation.code_hash import foreign_hash, source_hash
from vqdiff.evaluation.generation import draw, only_main_process, processes
from vqdiff.evaluation.protocol import Measurement, Result, Subject
from vqdiff.evaluation.scoring import Scoring
from vqdiff.evaluation.trial import Cell, Null, Trial
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.images import batches
from vqdiff.foundation.shapes import Int
from vqdiff.image_tokenizers import code_use
from vqdiff.metrics import Estimate, psnr, structural_similarity, summary
from vqdiff.pipeline import Pipeline
from vqdiff.pipeline import load as load_pipeline
from vqdiff.plugins import GUIDES
from vqdiff.ranking import check_ranking
from vqdiff.requests import conditions_of
from vqdiff.sampling import get_sampler
from vqdiff.sampling.candidates import network_calls
from vqdiff.sampling.guides import references_of
from vqdiff.sampling.plan import PlanInput
from vqdiff.settings import SamplingSettings
from vqdiff.text import NullCondition, literal
from vqdiff.text.emoji_names import spell_out


class Judge:
    """Measures ``cells`` by one trial; what they share is computed once.

    Raises InputError, before anything is generated, for cells or a trial that do not fit the data or each other.
    """

    def __init__(
        self, trial: Trial, cells: Sequence[Cell], device: str = "auto", precision: Precision = "auto"
    ) -> None:
        self.trial = trial
        self.device = processes(device)
        self.precision: Precision = precision
        self.pipes = dict[tuple[str, Null], Pipeline]()
        sizes = {cell.model: self.pipe(cell).model.image_tokenizer.config.image_size for cell in cells}
        if len(set(sizes.values())) > 1:
            raise InputError(f"the models generate images of different sizes, {sizes}: measure them one by one")
        self.image_size = next(iter(sizes.values()))
        self.wanted = self._wanted()
        trial.check_seeds(len(self.wanted))
        self.captions = [texts[0] for texts in self.wanted.captions]
        trial.check_captions(self.captions)
        for cell in cells:
            self._check(cell)
        reference = load(trial.data, trial.reference, self.image_size, validation=trial.validation)
        trial.check_reference(len(reference))
        self.num_reference, self.reference_hash = len(reference), _hash_pixels(reference)
        self.scoring = Scoring(trial, self.wanted, reference)
        with only_main_process() as main:
            if main and (left_out := self.scoring.left_out()):
                columns = ", ".join(dict.fromkeys(left_out.values()))
                what = f"{trial.data} has no column {columns}, so these scores are left out: {', '.join(left_out)}"
                warnings.warn(what, InputWarning, stacklevel=1)
            for remark in filter(None, map(trial.overlap, dict.fromkeys(cell.model for cell in cells if main))):
                warnings.warn(remark, InputWarning, stacklevel=1)
            for cell in {cell.model: cell for cell in cells if main and not cell.reconstruct}.values():
                self._report_truncated(cell)

    def _check(self, cell: Cell) -> None:
        """Raise InputError if the cell's model does not take the captions, or cannot be guided."""
        model = self.pipe(cell).model
        if cell.reconstruct:
            return
        settings = self._sampling(cell)
        check_ranking(model, settings, conditions_of(model, self.fitted(cell)))
        if "null" in references_of(settings, model.schedule.num_steps) and model.null(1) is None:
            raise InputError(f"{cell.model} has no null condition, so it cannot be guided: use guidance 1")

    def fitted(self, cell: Cell) -> list[str]:
        """The captions as prompts, as much of each as the cell's model has room for."""
        encoder = self.pipe(cell).model.text_encoder
        return self.captions if encoder is None else [literal(encoder.fit(text)) for text in self.captions]

    def _report_truncated(self, cell: Cell) -> None:
        pairs = zip(self.captions, self.fitted(cell), strict=True)
        if cut := [text for text, kept in pairs if kept not in (literal(text), literal(spell_out(text)))]:
            warnings.warn(
                f"{len(cut):,} of {len(self.captions):,} captions are too long for {cell.model} and are truncated: "
                f"{cut[0][:40]!r} …",
                InputWarning,
                stacklevel=1,
            )

    def _wanted(self) -> ImageSet:
        """The rows from whose captions images are generated; those of a set of classes alone are their names."""
        trial = self.trial
        rows = captioned(load(trial.data, trial.prompts, self.image_size, validation=trial.validation))
        count = trial.num_pictures or len(rows)
        if count > len(rows):
            raise InputError(f"num_pictures is {count}: {trial.prompts} has {len(rows)} images")
        chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
        columns = {name: values[chosen] for name, values in rows.columns.items()}
        captions = [rows.captions[int(row)] for row in chosen]
        weights = np.full(count, 1 / count)
        return ImageSet(pixels=rows.pixels[chosen], captions=captions, columns=columns, weights=weights)

    def pipe(self, cell: Cell) -> Pipeline:
        """The pipeline of a cell's model, loaded once, with the cell's null condition."""
        key = cell.model, cell.null
        if key not in self.pipes:
            if cell.null == "own":
                self.pipes[key] = load_pipeline(cell.model, device=self.device, precision=self.precision)
            else:
                own = self.pipe(replace(cell, null="own")).model
                if own.text_encoder is None:
                    raise InputError(f"{cell.model} is not a text model, so it has no null condition {cell.null!r}")
                other = NullCondition.of(cell.null, own.text_encoder)
                self.pipes[key] = Pipeline(replace(own, null_condition=other.to(own.device)))
        return self.pipes[key]

    def _sampling(self, cell: Cell) -> SamplingSettings:
        """The cell's sampling settings; those left out are the model's own."""
        model = self.pipe(cell).model  # not as changes: the samplers of a grid may ignore some of its settings
        return model.settings(model.sampling.changed(**vars(cell.sampling)))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """The sampling settings of a cell, and the number of network calls for an image; of adaptive ones, the most."""
        pipe = self.pipe(cell)
        settings, tokens, schedule = self._sampling(cell), pipe.model.num_tokens, pipe.model.schedule
        steps, start, masked = (torch.tensor([one]) for one in (settings.steps, schedule.num_steps, tokens))
        sampler, measured = get_sampler(settings.sampler), pipe.model.masked_nll
        plan = sampler.plan(PlanInput(schedule, tokens, steps, start, masked, [settings], measured))
        calls = network_calls(settings, plan.num_steps)
        return asdict(settings) | {"network_calls": f"at most {calls}" if sampler.adaptive else calls}

    def null(self, cell: Cell) -> str:
        """The kind of null condition that guidance moves a cell away from."""
        if cell.reconstruct or self.settings(cell)["guidance"] == 1:
            return "none"
        condition = self.pipe(cell).model.null_condition
        return condition.config.kind if condition is not None else "class"

    def measurement(self, *, reconstruct: bool = False) -> Measurement:
        """The description of how this judge measures."""
        columns = [str(self.wanted.columns[name].tolist()) for name in sorted(self.wanted.columns)]
        return Measurement(
            task="reconstruction" if reconstruct else "text to picture",
            num_pictures=len(self.captions),
            prompts=self.trial.prompts,
            prompts_hash=_hash([*self.captions, *columns, _hash_pixels(self.wanted)]),
            reference=self.trial.reference,
            num_reference=self.num_reference,
            reference_hash=self.reference_hash,
            image_size=self.image_size,
            resize="real pictures: box by whole factors, else Lanczos; drawn ones: none; networks: their own",
            seeds=(0,) if reconstruct else self.trial.seeds,
            features=", ".join(network.name for network in self.scoring.networks),
            features_hash=_hash([network.fingerprint for network in self.scoring.networks]),
            scorer=", ".join(self.scoring.scorers),
            scorer_hash=_hash(self.scoring.hashes),
            choices=self.trial.choices,
        )

    def measure(self, cell: Cell) -> Result:
        """Generate what is missing and score it; mean and deviation are over the trial's repetitions."""
        pipe = self.pipe(cell)
        measured = pipe.model.curve_identity(self._sampling(cell))
        subject = Subject(
            model=pipe.model.card.name,
            model_hash=pipe.model.fingerprint,
            dtype=precision_of(pipe.model.denoiser),
            device=pipe.model.device.type,
            settings={} if cell.reconstruct else self.settings(cell) | measured,
            null=self.null(cell),
        )
        measurement = self.measurement(reconstruct=cell.reconstruct)
        code = self._code(cell, SCORING_MODULES)
        stem = self.trial.drawn / "results" / _hash([json.dumps(asdict(subject)), measurement.hash, code])
        drawn = [self.tokens(cell, seed) for seed in measurement.seeds]
        with only_main_process() as main:
            if main and not stem.with_suffix(".json").exists():
                self._save(subject, measurement, self._scores(cell, drawn), stem)
        return Result.load(stem.with_suffix(".json"))

    def _scores(self, cell: Cell, drawn: Sequence[Tensor]) -> dict[str, Estimate]:
        features = [self.scoring.features(self._pixels(cell, tokens)) for tokens in drawn]
        runs = [self.scoring.scores(one) for one in features]
        if cell.reconstruct:
            runs = [run | self._fidelity(cell, tokens) for run, tokens in zip(runs, drawn, strict=True)]
        scores = {name: summary([run[name] for run in runs]) for name in runs[0]}
        return scores | {"diversity": summary(self.scoring.diversity(features))} if len(runs) > 1 else scores

    @staticmethod
    def _save(subject: Subject, measurement: Measurement, scores: dict[str, Estimate], stem: Path) -> None:
        versions = {"vqdiff": vqdiff.__version__, "torch": torch.__version__, "python": platform.python_version()}
        program = Path(sys.argv[0]).name.replace("__main__.py", "vqdiff")  # python -m vqdiff
        command = shlex.join([program, *sys.argv[1:]])
        stem.parent.mkdir(parents=True, exist_ok=True)
        Result(subject, measurement, versions, scores, command).save(stem)

    def tokens(self, cell: Cell, seed: int) -> Int[Tensor, "N L"]:
        """The tokens of a cell in one repetition: generated from the captions, or encoded from the real images."""
        pipe = self.pipe(cell)
        if cell.reconstruct:
            with torch.inference_mode():
                encode = pipe.model.image_tokenizer.encode
                return torch.cat([encode(pixels.to(pipe.model.device)).cpu() for pixels in batches(self.wanted.pixels)])
        settings = self._sampling(cell)
        # Everything that turns a seed into tokens, including the code: after a change of a sampler, images are
        # resampled.
        key = [
            pipe.model.fingerprint,
            precision_of(pipe.model.denoiser),
            pipe.model.device.type,
            self.null(cell),
            torch.__version__,
        ]
        described = asdict(settings) | pipe.model.curve_identity(settings)
        key += [json.dumps(described), str(self.trial.batch_size), self._code(cell, SAMPLING_MODULES)]
        folder = self.trial.drawn / _hash([*key, *self.captions]) / str(seed)
        return draw(pipe, self.fitted(cell), seed, settings, folder, batch_size=self.trial.batch_size)

    def _code(self, cell: Cell, modules: Sequence[str]) -> str:
        """A hash of the code of these modules, and of other packages' parts that the cell uses."""
        model, settings = self.pipe(cell).model, self._sampling(cell)
        parts = (get_sampler(settings.sampler), GUIDES.get(settings.guide), model.denoiser, model.image_tokenizer)
        return source_hash(*modules) + foreign_hash(*parts)

    def pictures(self, cell: Cell, count: int) -> list[Image.Image]:
        """The images of a cell in its first repetition for `captions_of` the same ``count``."""
        tokens = self.tokens(cell, self.trial.seeds[0])[self._spread(count)]
        return self.pipe(cell).decode(tokens.to(self.pipe(cell).model.device))

    def times(self, cells: Sequence[Cell], count: int) -> list[dict[str, Estimate]]:
        """Return for each cell the seconds and the network calls of one image, alone, from ``count`` images.

        The cells take turns, so that a machine that becomes slower does so for all. None for an image tokenizer alone.
        """
        found: list[list[tuple[float, float]]] = [[] for _ in cells]
        for turn in range(count + 1):
            for cell, own in zip(cells, found, strict=True):
                if cell.reconstruct:
                    continue
                calls = dict[str, int]()
                start = time.monotonic()
                self.pipe(cell)(
                    self.fitted(cell)[turn % len(self.captions)],
                    seed=turn,
                    on_step=lambda done, _, calls=calls: calls.update(done=done),
                    **vars(cell.sampling),
                )
                if turn:  # the first is to warm up
                    own.append((time.monotonic() - start, float(calls["done"])))
        return [dict(zip(TIMED, map(summary, zip(*own, strict=True)), strict=True)) if own else {} for own in found]

    def captions_of(self, count: int) -> list[str]:
        """Return ``count`` of the captions, evenly spaced."""
        return [self.captions[row] for row in self._spread(count)]

    def _spread(self, count: int) -> list[int]:
        return [row * len(self.captions) // count for row in range(count)]

    @torch.inference_mode()
    def _pixels(self, cell: Cell, tokens: Tensor) -> Iterator[Tensor]:
        model = self.pipe(cell).model
        for one in tokens.to(model.device).split(1):  # as images are decoded for users
            yield (model.image_tokenizer.decode(one).float().clamp(0, 1) * 255).round().cpu() / 255

    def _fidelity(self, cell: Cell, tokens: Tensor) -> dict[str, float]:
        """PSNR (dB), SSIM and codebook use of the image tokenizer."""
        pixels, decoded = torch.cat(list(batches(self.wanted.pixels))), torch.cat(list(self._pixels(cell, tokens)))
        use = code_use(tokens, self.pipe(cell).model.image_tokenizer.num_codes)
        return {
            "psnr": float(psnr(decoded, pixels).mean()),
            "ssim": structural_similarity(decoded, pixels),
            "codes_used": use.used,
            "perplexity": use.perplexity,
        }


SECONDS = "seconds"
TIMED = (SECONDS, "calls")
"""The scores that `Judge.times` returns."""
SAMPLING_MODULES = ("vqdiff.pipeline", "vqdiff.evaluation.generation")
SCORING_MODULES = (*SAMPLING_MODULES, "vqdiff.evaluation.scoring")
"""The modules that, with their imports, turn a seed into tokens, and tokens into scores."""


def _hash_pixels(pictures: ImageSet) -> str:
    return hashlib.sha256(np.ascontiguousarray(pictures.pixels).tobytes()).hexdigest()[:12]


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
