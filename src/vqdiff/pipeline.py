"""Text → pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack, get_args

import torch
from PIL import Image
from torch import Tensor

from vqdiff.checkpoints import Extras, read_model
from vqdiff.denoisers.packed import is_packed, pack, precision_of
from vqdiff.foundation import fitting
from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.images import Picture, to_images
from vqdiff.foundation.shapes import Float, Int
from vqdiff.model import Model
from vqdiff.model.devices import auto_precision, pick_device
from vqdiff.model.finding import find
from vqdiff.sampling import Canvas, Frame, SamplingSettings, run
from vqdiff.text import Condition
from vqdiff.work import Changes, Prompts, Whole, Work, avoid, conditions_of, settings_of, whole


@dataclass(frozen=True)
class Preview:
    """One step of :meth:`Pipeline.stream`: the picture as it stands, MASK shown as blank."""

    step: int
    steps: int
    image: Image.Image
    tokens: Int[Tensor, " L"]
    confidence: Float[Tensor, "h w"]


class Pipeline:
    """A model with the habits of a painter: prompts and seeds in, PIL images out."""

    def __init__(self, model: Model, read_again: Callable[[], Model] | None = None) -> None:
        """``read_again`` gives the networks as they were before they were packed, for :meth:`save`."""
        self.model = model
        self.read_again = read_again

    def __call__(
        self,
        prompts: Prompts = None,
        *,
        num_images: Whole = 1,
        seed: Whole = 0,
        negative: Condition = None,
        batch_size: Whole = 8,
        on_step: Callable[[int, int], None] | None = None,
        **changes: Unpack[Changes],
    ) -> list[Image.Image]:
        """Draw ``num_images`` pictures of every prompt (or label, or `vqdiff.text.Blend` of two), prompt by prompt.

        Picture i of the whole call has seed ``seed + i`` and does not depend on ``batch_size``. Settings left at None
        are the model's own. Guidance leads away from ``negative``, if given, in place of the null condition.
        ``on_step(done, total)`` is told of progress in network calls × pictures.

        Raises InputError for an empty or over-long prompt, or a setting out of range.
        """
        work = Work.generate(self.model, prompts, num_images=num_images, seed=seed, negative=negative, **changes)
        return self.draw(work, batch_size=batch_size, on_step=on_step)

    def edit(
        self,
        image: Picture,
        mask: Picture,
        prompt: Condition = None,
        *,
        seed: Whole = 0,
        negative: Condition = None,
        feather: Whole = 0,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw the white part of ``mask`` (128 or more) anew as ``prompt`` says, or as fits if there is none.

        mask: of the picture's size and any shape. A token with any white pixel in its patch is redrawn; the others
        never change. The pixels that are not white are those of ``image``, exactly; ``feather`` fades into them over so
        many pixels. A mask without white returns the picture; on one of the model's size, a mask that is all white
        gives what ``pipe(prompt, seed=seed)`` draws. `vqdiff.foundation.fitting` tells what happens to a picture of
        another size.

        Picture and mask are PIL images, paths or NumPy arrays, of any mode and depth
        (`vqdiff.foundation.images.as_image`).

        Raises InputError for a mask of another size, and as a call does.
        """
        asked = {"seed": seed, "negative": negative, "feather": feather}
        return self.draw(Work.edit(self.model, image, mask, prompt, **asked, **changes))[0]

    def expand(
        self,
        image: Picture,
        prompt: Condition = None,
        *,
        left: Whole = 0,
        top: Whole = 0,
        right: Whole = 0,
        bottom: Whole = 0,
        seed: Whole = 0,
        negative: Condition = None,
        feather: Whole = 0,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw around the picture: ``left``, ``top``, … new pixels at its sides (outpainting), otherwise as `edit`."""
        margins = {"left": left, "top": top, "right": right, "bottom": bottom}
        canvas, mask = fitting.expand(image, **{side: whole(side, width) for side, width in margins.items()})
        return self.edit(canvas, mask, prompt, seed=seed, negative=negative, feather=feather, **changes)

    def vary(
        self,
        image: Picture,
        strength: float = 0.5,
        prompt: Condition = None,
        *,
        num_images: Whole = 1,
        seed: Whole = 0,
        negative: Condition = None,
        batch_size: Whole = 8,
        **changes: Unpack[Changes],
    ) -> list[Image.Image]:
        """Noise the picture to the time t = strength·T, rounded, and draw it from there as ``prompt`` says, if given.

        strength: 0 is the image tokenizer's own reconstruction, 1 a fresh picture, the one that ``pipe(prompt)`` draws
        with that seed. Picture i has seed ``seed + i``; all have the size of ``image``.

        Raises InputError for a strength outside [0, 1], and as a call does.
        """
        asked = {"num_images": num_images, "seed": seed, "negative": negative}
        return self.draw(Work.vary(self.model, image, strength, prompt, **asked, **changes), batch_size=batch_size)

    @torch.inference_mode()
    def decode(self, tokens: Int[Tensor, "B L"]) -> list[Image.Image]:
        """The pictures of finished tokens."""
        # One by one: convolutions round differently in other batches, enough to move a value of 255.
        return [to_images(self.model.image_tokenizer.decode(one[None]))[0] for one in tokens]

    def revise(
        self,
        image: Picture,
        share: float = 0.25,
        prompt: Condition = None,
        *,
        seed: Whole = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw the ``share`` of the picture anew of which the model is least sure; the other tokens never change.

        The denoiser looks at all tokens as if so many were wrong (`vqdiff.sampling.doubtful`). ``prompt`` counts both
        for what is doubtful and for what is drawn. A share of 0 is the image tokenizer's own reconstruction.

        Raises InputError for a share outside [0, 1], and as a call does.
        """
        work = Work.revise(self.model, image, share, prompt, seed=seed, negative=negative, **changes)
        return self.draw(work)[0]

    def stream(
        self,
        prompt: Condition = None,
        *,
        seed: Whole = 0,
        negative: Condition = None,
        settings: SamplingSettings | None = None,
    ) -> Iterator[Preview]:
        """Draw one picture and yield it after every step, with its tokens and the purity of every position."""
        side = self.model.image_tokenizer.grid_size
        settings = settings or self.model.sampling
        condition, seeds = self.conditions(prompt), [whole("seed", seed)]
        for frame in self.frames(condition, seeds, settings, avoid(self.model, negative, settings)):
            yield Preview(
                frame.step,
                frame.steps,
                to_images(self.preview(frame.tokens))[0],
                frame.tokens[0],
                frame.confidence[0].view(side, side),
            )

    @torch.inference_mode()
    def frames(
        self,
        conditions: Sequence[Condition] | None,
        seeds: Sequence[int],
        settings: SamplingSettings,
        negative: Condition = None,
        canvas: Canvas | None = None,
    ) -> Iterator[Frame]:
        """The sampling loop for one batch of conditions, one seed each, as tensors."""
        yield from self._run(Work(conditions, seeds, settings, negative, canvas))

    @torch.inference_mode()
    def draw(
        self, work: Work, *, batch_size: Whole = 8, on_step: Callable[[int, int], None] | None = None
    ) -> list[Image.Image]:
        """The finished pictures of ``work``; other arguments as for a call."""
        pictures = list[Image.Image]()
        for part in work.parts(whole("batch_size", batch_size, least=1)):
            frame = None
            for frame in self._run(part):
                if on_step is not None:
                    done = len(pictures) * frame.steps + frame.step * len(part.seeds)
                    on_step(done, len(work.seeds) * frame.steps)
            assert frame is not None  # every sampler takes a step
            pictures += [work.finish(one) for one in self.decode(frame.tokens)]
        return pictures

    def _run(self, work: Work) -> Iterator[Frame]:
        return run(work.start(self.model), self.model.bind(*work.encode(self.model)))

    @torch.inference_mode()
    def preview(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
        """Decode tokens of which some are still MASK; their patches are left light grey."""
        masked = tokens == self.model.schedule.num_codes
        pixels = self.model.image_tokenizer.decode(tokens.masked_fill(masked, 0))
        side = self.model.image_tokenizer.grid_size
        patch = pixels.shape[-1] // side
        hidden = masked.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return pixels.masked_fill(hidden, 0.9)

    def settings(self, **changes: object) -> SamplingSettings:
        """The model's own settings with ``changes`` (None = unchanged), checked against its number of tokens."""
        return settings_of(self.model, **changes)

    def conditions(self, prompts: Prompts) -> list[Condition]:
        """Prompts or labels as a checked list; for an unconditional model a list of one nothing."""
        return conditions_of(self.model, prompts)

    def save(self, folder: str | Path) -> None:
        """Write the model folder, with the networks as they were read, whatever precision they draw in.

        Raises InputError if they are packed and what they were read from is gone.
        """
        model = self.model
        lowered = is_packed(model.denoiser) or precision_of(model.denoiser) != "float32"
        if lowered and self.read_again is not None:
            read = self.read_again()
            model = replace(model, denoiser=read.denoiser, image_tokenizer=read.image_tokenizer)
        model.save(Path(folder))


def load(
    source: str | Path = "emoji",
    *,
    device: str = "auto",
    precision: Precision = "auto",
    batch_invariant: bool = False,
    **extras: Unpack[Extras],
) -> Pipeline:
    """A pipeline from a bundled name, a folder of ours or of diffusers, a ``.pth`` checkpoint, or a Hub id.

    A Hub id is owner/name, or owner/name@revision; it is fetched, by huggingface_hub, where no such path is here.

    ``device`` is "auto" (CUDA if there, else the CPU) or a torch device. ``precision`` is what the denoiser computes
    with, and on a CPU the decoder of the image tokenizer: by default bfloat16 where the machine has units for it, else
    float32; "int8" is faster and smaller still, on CPUs, and changes pictures a little. ``extras`` are what a
    checkpoint leaves open, such as ``image_tokenizer``, the file of its codec; see
    :class:`vqdiff.checkpoints.microsoft.Extras`.

    On a CPU a seed's picture is the same, bit for bit, in any batch. On a GPU rounding depends on the batch, and may
    change some tokens, unless ``batch_invariant`` has it compute one image at a time, which is slower. In both, another
    machine, precision, version of torch or number of threads rounds differently.

    On a CPU the denoiser is packed (:func:`vqdiff.denoisers.packed.pack`): it draws, but cannot be trained or moved.

    Raises InputError for an unknown name, a broken folder, or a device or precision that is not there.
    """
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    where, path = pick_device(device), find(source)
    bf16 = (auto_precision(where) if precision in ("auto", "int8") else precision) == "bfloat16"
    dtype = torch.bfloat16 if bf16 else None
    model = read_model(path, extras, dtype=dtype).to(where, dtype)
    model.denoiser = pack(model.denoiser, int8=precision == "int8")
    model.batch_invariant = batch_invariant
    if bf16 and where.type == "cpu" and (decoder := getattr(model.image_tokenizer, "decoder", None)) is not None:
        decoder.to(torch.bfloat16, memory_format=torch.channels_last)
    return Pipeline(model, partial(read_model, path, extras))
