"""The pipeline: prompts and seeds → images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, get_args

import torch
from PIL import Image
from torch import Tensor

from vqdiff import running
from vqdiff.checkpoints import Extras, read_model
from vqdiff.denoisers.packed import is_packed, pack, precision_of
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.html import table
from vqdiff.foundation.images import ImageLike, to_images
from vqdiff.foundation.options import WholeNumber, checked, whole
from vqdiff.foundation.progress import in_notebook, step_bar
from vqdiff.foundation.shapes import Float, Int
from vqdiff.model import Job, Model
from vqdiff.model.devices import auto_precision, pick_device
from vqdiff.model.finding import find
from vqdiff.model.hub import check_name, check_push, push
from vqdiff.model.hub_page import samples_of, save_for_hub
from vqdiff.requests import (
    DrawRequest,
    EditRequest,
    ExpandRequest,
    Prompts,
    Request,
    ReviseRequest,
    VaryRequest,
    conditions_of,
)
from vqdiff.sampling import Canvas, Frame, SamplingSettings
from vqdiff.settings import CallSettings
from vqdiff.text import Condition


@dataclass(frozen=True)
class Preview:
    """One step of :meth:`Pipeline.stream`: the image as it stands, MASK shown as blank."""

    step: int
    steps: int
    image: Image.Image
    tokens: Int[Tensor, " L"]
    confidence: Float[Tensor, "h w"]


class LoadOptions(Extras, total=False):
    """The options of `load`."""

    device: str
    precision: Precision
    batch_invariant: bool


class Pipeline:
    """A model that generates PIL images from prompts and seeds.

    The methods that take prompts or an image also take the settings of `SamplingSettings`; those left at None default
    to those of ``preset``, such as "fast" or "best" (`Model.own_presets`), or without one to the model's own. Image i
    of a call has seed ``seed + i`` and does not depend on ``batch_size``, the number of images sampled together (with
    ``best_of``, of candidates, and those of an image always are). If ``negative`` is given, guidance moves away from it
    instead of the null condition.

    In a notebook, methods that return images show a bar until they do; ``pipe.progress = False`` turns it off, and
    True turns it on for a terminal, too.

    All methods raise InputError for an empty or too long prompt, an unknown label, or a value out of range.
    """

    def __init__(self, model: Model, read_again: Callable[[], Model] | None = None) -> None:
        """``read_again`` reads the networks as they were before packing, for :meth:`save`."""
        self.model = model
        self.read_again = read_again
        self.progress: bool | None = None

    def __repr__(self) -> str:
        return f"<vqdiff.Pipeline {', '.join(self._facts().values())}>"

    def _repr_html_(self) -> str:
        return table("vqdiff.Pipeline", self._facts().items()) + self.model.sampling._repr_html_()

    def _facts(self) -> dict[str, str]:
        model = self.model
        size, side, precision = (
            model.image_tokenizer.config.image_size,
            model.image_tokenizer.grid_size,
            precision_of(model.denoiser),
        )
        condition = f"labels 0 to {model.num_classes - 1}" if model.num_classes else model.conditioned_on
        return {
            "model": f"{model.card.name!r} ({model.fingerprint})",
            "condition": f"{condition} → image" if condition != "nothing" else "unconditional",
            "image": f"{size} × {size} pixels, {side} × {side} tokens",
            "device": f"{precision} on {model.device}",
        }

    def __call__(
        self,
        prompts: Prompts = None,
        *,
        num_images: WholeNumber = 1,
        seed: WholeNumber = 0,
        negative: Condition = None,
        batch_size: WholeNumber = 8,
        on_step: Callable[[int, int], None] | None = None,
        **changes: Unpack[CallSettings],
    ) -> list[Image.Image]:
        """Generate ``num_images`` images of every prompt (or label, or `vqdiff.Blend` of two), prompt by prompt.

        ``on_step(done, total)`` is called after every step, with the progress in network calls × images.
        """
        request = self._request(
            DrawRequest, changes, prompts=prompts, num_images=num_images, seed=seed, negative=negative
        )
        return self.draw(request, batch_size=batch_size, on_step=on_step)

    def edit(
        self,
        image: ImageLike,
        mask: ImageLike,
        prompt: Condition = None,
        *,
        seed: WholeNumber = 0,
        negative: Condition = None,
        feather: WholeNumber = 0,
        **changes: Unpack[CallSettings],
    ) -> Image.Image:
        """Resample the white part of ``mask`` (128 or more), conditioned on ``prompt`` if there is one.

        mask: an image of the same size as ``image``. A token with any white pixel in its patch is resampled; the others
        do not change. Pixels that are not white in the mask keep their exact values; ``feather`` is the width in pixels
        over which the result fades into them. A mask without white returns the image. If the image has the model's
        size, an all-white mask gives what ``pipe(prompt, seed=seed)`` generates. `vqdiff.foundation.fitting` describes
        how images of other sizes are handled.

        Image and mask are PIL images, paths or NumPy arrays, of any mode and depth
        (`vqdiff.foundation.images.as_image`).

        Also raises InputError for a mask of another size.
        """
        given = {"image": image, "mask": mask, "prompt": prompt, "seed": seed, "negative": negative, "feather": feather}
        return self.draw(self._request(EditRequest, changes, **given))[0]

    def expand(
        self,
        image: ImageLike,
        prompt: Condition = None,
        *,
        left: WholeNumber = 0,
        top: WholeNumber = 0,
        right: WholeNumber = 0,
        bottom: WholeNumber = 0,
        seed: WholeNumber = 0,
        negative: Condition = None,
        feather: WholeNumber = 0,
        **changes: Unpack[CallSettings],
    ) -> Image.Image:
        """Extend the image by ``left``, ``top``, … new pixels at its sides (outpainting); otherwise as `edit`."""
        sides = {"left": left, "top": top, "right": right, "bottom": bottom, "feather": feather}
        given = {"image": image, "prompt": prompt, "seed": seed, "negative": negative}
        return self.draw(self._request(ExpandRequest, changes, **given, **sides))[0]

    def vary(
        self,
        image: ImageLike,
        strength: float = 0.5,
        prompt: Condition = None,
        *,
        num_images: WholeNumber = 1,
        seed: WholeNumber = 0,
        negative: Condition = None,
        batch_size: WholeNumber = 8,
        **changes: Unpack[CallSettings],
    ) -> list[Image.Image]:
        """Noise the image to the time t = strength·T, rounded, and sample from there, conditioned on ``prompt`` if any.

        strength: 0 gives the image tokenizer's reconstruction, 1 a new image, the one that ``pipe(prompt)`` generates
        with that seed. All results have the size of ``image``.

        Also raises InputError for a strength outside [0, 1].
        """
        given = {"image": image, "prompt": prompt, "num_images": num_images, "seed": seed, "negative": negative}
        return self.draw(self._request(VaryRequest, changes, strength=strength, **given), batch_size=batch_size)

    def revise(
        self,
        image: ImageLike,
        share: float = 0.25,
        prompt: Condition = None,
        *,
        seed: WholeNumber = 0,
        negative: Condition = None,
        **changes: Unpack[CallSettings],
    ) -> Image.Image:
        """Resample the least confident tokens, a ``share`` of all of them.

        The denoiser evaluates all tokens as if this share of them were wrong (`vqdiff.sampling.least_confident`). Both
        the choice of tokens and the new ones are conditioned on ``prompt``. A share of 0 gives the image tokenizer's
        reconstruction. The other tokens change with the sampler token-fixing only, which is the default for a model
        that was trained with masks and replace noise.

        Also raises InputError for a share outside [0, 1].
        """
        given = {"image": image, "prompt": prompt, "seed": seed, "negative": negative}
        return self.draw(self._request(ReviseRequest, changes, share=share, **given))[0]

    def stream(
        self,
        prompt: Condition = None,
        *,
        seed: WholeNumber = 0,
        negative: Condition = None,
        **changes: Unpack[CallSettings],
    ) -> Iterator[Preview]:
        """Generate one image and yield it after every step, with its tokens and the purity at every position.

        With ``best_of``, all candidates are sampled before the first step is shown: those of the best one are.
        """
        side = self.model.image_tokenizer.grid_size
        request = self._request(DrawRequest, changes, prompts=prompt, seed=seed, negative=negative)
        job = request.job(self.model)
        if len(job.seeds) != 1:
            raise InputError(f"stream generates one image at a time, not of {len(job.seeds)} prompts: call it for each")
        for frame in running.frames(self.model, job):
            yield Preview(
                frame.step,
                frame.steps,
                to_images(self.preview(frame.tokens))[0],
                frame.tokens[0],
                frame.confidence[0].view(side, side),
            )

    def frames(
        self,
        conditions: Sequence[Condition] | None,
        seeds: Sequence[int],
        settings: SamplingSettings,
        negative: Condition = None,
        canvas: Canvas | None = None,
    ) -> Iterator[Frame]:
        """Run the sampling loop, as tensors, for one batch of conditions with one seed each; nothing is checked.

        With ``best_of``, all candidates are sampled first, and the best ones then again.
        """
        return running.frames(self.model, Job(conditions, seeds, settings, negative, canvas))

    def draw(
        self, request: Request, *, batch_size: WholeNumber = 8, on_step: Callable[[int, int], None] | None = None
    ) -> list[Image.Image]:
        """Generate the images of a request; the other arguments are those of a call."""
        return self.sample(request.job(self.model), batch_size=batch_size, on_step=on_step)

    def sample(
        self, job: Job, *, batch_size: WholeNumber = 8, on_step: Callable[[int, int], None] | None = None
    ) -> list[Image.Image]:
        """Generate the images of a job, which is not checked further."""
        size = whole("batch_size", batch_size, least=1)
        bar = on_step is None and (in_notebook() if self.progress is None else self.progress)
        with step_bar("generating") if bar else nullcontext(on_step) as show:
            return running.images(self.model, job, size, show or running.unseen)

    def tokens(self, job: Job, on_step: running.OnStep = running.unseen) -> Int[Tensor, "N L"]:
        """Sample all images of a job together, which is not checked; return their finished tokens.

        ``on_step(done, total)`` is called after every step, with the network calls for all images until now, and those
        for one image.
        """
        return running.tokens(self.model, job, on_step)

    def check_finished(self, tokens: Int[Tensor, "B L"], sampler: str) -> None:
        """Raise InputError if a ``sampler`` of the caller's own has left MASK in tokens that should be finished."""
        running.check_finished(self.model, tokens, sampler)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[Image.Image]:
        """Decode finished tokens to images."""
        return running.decode(self.model, tokens)

    def preview(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
        """Decode tokens of which some are still MASK; the patches of those are light grey."""
        return running.preview(self.model, tokens)

    def settings(self, **changes: Unpack[CallSettings]) -> SamplingSettings:
        """Return the settings of ``preset``, by default the model's own, with ``changes``; None changes nothing."""
        return self.model.settings(**changes)

    def conditions(self, prompts: Prompts) -> list[Condition]:
        """Return prompts or labels as a checked list; for an unconditional model, a list of one None."""
        return conditions_of(self.model, prompts)

    def _request(self, kind: type[Request], changes: CallSettings, **given: Any) -> Request:
        """Return a request of a ``kind`` for the fields ``given``, whose numbers may have any type, also NumPy's."""
        settings = kind.settings_for(self.model, **changes)
        return kind(settings=settings, **checked(kind, given))

    def save(self, folder: str | Path) -> None:
        """Write the model folder, with the networks as they were read, whatever precision they compute in.

        Raises InputError if they are packed and their source can no longer be read.
        """
        self._as_read().save(Path(folder))

    def _as_read(self) -> Model:
        model = self.model
        lowered = is_packed(model.denoiser) or precision_of(model.denoiser) != "float32"
        if lowered and self.read_again is not None:
            read = self.read_again()
            model = replace(
                model,
                denoiser=read.denoiser,
                image_tokenizer=read.image_tokenizer,
                weaker_denoiser=read.weaker_denoiser,
            )
        return model

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        **options: Unpack[LoadOptions],
    ) -> Pipeline:
        """Load a pipeline as `load` does, which ``options`` are passed to; the others are for a model on the Hub.

        revision: a branch, tag or commit. token: in place of the stored one. cache_dir: where downloads are kept.
        """
        return load(find(source, revision=revision, token=token, cache_dir=cache_dir), **options)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        prompts: Prompts = None,
    ) -> str:
        """Upload the model to ``repo``, owner/name on the Hugging Face Hub, with a page; return the commit's address.

        The upload is what `save_for_hub` writes, in one commit. private: whether a new repository is private. token: in
        place of the stored one. revision: the branch, by default main; it is created if it is missing.

        Raises InputError as `save_for_hub`, and if huggingface_hub, the token or the network fails.
        """
        check_push(repo, token)
        with TemporaryDirectory() as room:
            folder = Path(room) / "model"
            self.save_for_hub(folder, repo, prompts=prompts)
            message = f"{self.model.card.name}, written by vqdiff"
            return push(folder, repo, message=message, private=private, token=token, revision=revision)

    def save_for_hub(self, folder: str | Path, repo: str, *, prompts: Prompts = None) -> None:
        """Write what `push_to_hub` uploads: the model folder and a page, README.md, with samples generated here.

        Weights are stored in 16 bits where that changes none of them. The folder has neither local paths nor files that
        do not belong to a model, whatever is beside its text encoder.

        prompts: of the samples, two images each; by default those of the model's card, or the first labels.

        Raises InputError for a name that is not owner/name, and for a model conditioned on text without any prompt.
        """
        check_name(repo)
        samples = samples_of(self.model, None if prompts is None else self.conditions(prompts))
        images = self(list(samples.prompts), num_images=samples.each)
        save_for_hub(self._as_read(), Path(folder), repo, samples, images)


def load(
    source: str | Path = "emoji",
    *,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    batch_invariant: bool = False,
    **extras: Unpack[Extras],
) -> Pipeline:
    """Load a pipeline from a bundled name, a model folder, a diffusers folder, a ``.pth`` checkpoint, or a Hub id.

    A Hub id is owner/name or owner/name@revision; huggingface_hub downloads it if there is no such local path.

    ``device`` is "auto" (CUDA if available, else the CPU) or a torch device. ``precision`` is the number format that
    the denoiser computes in, and on a CPU also the decoder of the image tokenizer: by default bfloat16 where the device
    has units for it, else float32; "int8" (CPUs only) is faster and smaller still, and changes the images slightly.
    ``extras`` are the parts that a checkpoint lacks, such as ``image_tokenizer``, the file of its codec; see
    :class:`vqdiff.checkpoints.microsoft.Extras`.

    On a CPU, a seed gives the same image, bit for bit, in any batch. On a GPU, rounding depends on the batch and may
    change some tokens, unless ``batch_invariant`` is set, which computes one image at a time and is slower. On both,
    another machine, precision, version of torch or number of threads rounds differently.

    On a CPU the denoiser is packed (:func:`vqdiff.denoisers.packed.pack`): it generates, but cannot be trained or
    moved.

    Raises InputError for an unknown name, a broken folder, or a device or precision that is not available.
    """
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    where, path = pick_device(str(device)), find(source)
    bf16 = (auto_precision(where) if precision in ("auto", "int8") else precision) == "bfloat16"
    dtype = torch.bfloat16 if bf16 else None
    model = read_model(path, extras, dtype=dtype).to(where, dtype)
    model.denoiser = pack(model.denoiser, int8=precision == "int8")
    if model.weaker_denoiser is not None:
        model.weaker_denoiser = pack(model.weaker_denoiser, int8=precision == "int8")
    model.batch_invariant = batch_invariant
    if bf16 and where.type == "cpu" and (decoder := getattr(model.image_tokenizer, "decoder", None)) is not None:
        decoder.to(torch.bfloat16, memory_format=torch.channels_last)
    return Pipeline(model, partial(read_model, path, extras))
