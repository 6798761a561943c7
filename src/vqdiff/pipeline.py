"""Text → pictures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqdiff import editing
from vqdiff.checkpoints import Extras, read_model
from vqdiff.checkpoints.hub import download, is_hub_id
from vqdiff.errors import InputError
from vqdiff.model import Model
from vqdiff.pictures import to_images, to_pixels
from vqdiff.sampling import Canvas, Frame, Guidance, SamplingSettings, doubtful, get_sampler, sample
from vqdiff.shapes import Bool, Float, Int
from vqdiff.text import Blend, Condition


class Changes(TypedDict, total=False):
    """Settings of `SamplingSettings` to change for one call; None leaves the model's own."""

    steps: int | None
    guidance: float | Guidance | None
    sampler: str | None
    truncation: float | None
    prior_scale: float | None


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

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(
        self,
        prompts: Condition | Sequence[Condition] = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        negative: Condition = None,
        batch_size: int = 8,
        on_step: Callable[[int, int], None] | None = None,
        **changes: Unpack[Changes],
    ) -> list[Image.Image]:
        """Draw ``num_images`` pictures of every prompt (or label, or `vqdiff.text.Blend` of two), prompt by prompt.

        Picture i of the whole call has seed ``seed + i`` and does not depend on ``batch_size``. Settings left at None
        are the model's own. Guidance leads away from ``negative``, if given, in place of the null condition.
        ``on_step(done, total)`` is told of progress in network calls × pictures.

        Raises InputError for an empty or over-long prompt, or a setting out of range.
        """
        jobs = [one for one in self.conditions(prompts) for _ in range(num_images)]
        tokens = self._draw(jobs, seed, self.settings(**changes), negative, batch_size=batch_size, on_step=on_step)
        return self.decode(tokens)

    def edit(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: Condition = None,
        *,
        seed: int = 0,
        negative: Condition = None,
        feather: int = 0,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw the white part of ``mask`` (128 or more) anew as ``prompt`` says, or as fits if there is none.

        mask: of the picture's size and any shape. A token with any white pixel in its patch is redrawn; the others
        never change. The pixels that are not white are those of ``image``, exactly; ``feather`` fades into them over so
        many pixels. A mask without white returns the picture; on one of the model's size, a mask that is all white
        gives what ``pipe(prompt, seed=seed)`` draws. `vqdiff.editing` tells what happens to a picture of another size.

        Raises InputError for a mask of another size, and as a call does.
        """
        settings = self.settings(**changes)
        redraw = editing.white(mask, image.size)
        x0, holes = self._tokenize(image), editing.to_tokens(redraw, self.model.image_tokenizer.grid_size)
        tokens = self._draw(self._wish(prompt), seed, settings, negative, x0, redraw=holes[None])
        return editing.paste(editing.unfit(self.decode(tokens)[0], image.size), image, redraw, feather)

    def expand(
        self,
        image: Image.Image,
        prompt: Condition = None,
        *,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        seed: int = 0,
        negative: Condition = None,
        feather: int = 0,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw around the picture: ``left``, ``top``, … new pixels at its sides (outpainting), otherwise as `edit`."""
        canvas, mask = editing.expand(image, left, top, right, bottom)
        return self.edit(canvas, mask, prompt, seed=seed, negative=negative, feather=feather, **changes)

    def vary(
        self,
        image: Image.Image,
        strength: float = 0.5,
        prompt: Condition = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        negative: Condition = None,
        batch_size: int = 8,
        **changes: Unpack[Changes],
    ) -> list[Image.Image]:
        """Noise the picture to the time t = strength·T, rounded, and draw it from there as ``prompt`` says, if given.

        strength: 0 is the image tokenizer's own reconstruction, 1 a fresh picture, the one that ``pipe(prompt)`` draws
        with that seed. Picture i has seed ``seed + i``; all have the size of ``image``.

        Raises InputError for a strength outside [0, 1], and as a call does.
        """
        if not 0 <= strength <= 1:
            raise InputError(f"strength is {strength}: give a number from 0, no change, to 1, a fresh picture")
        start = round(strength * self.model.schedule.num_steps)
        jobs = self._wish(prompt) * num_images
        tokens = self._draw(
            jobs, seed, self.settings(**changes), negative, self._tokenize(image), start=start, batch_size=batch_size
        )
        return [editing.unfit(drawn, image.size) for drawn in self.decode(tokens)]

    @torch.inference_mode()
    def decode(self, tokens: Int[Tensor, "B L"]) -> list[Image.Image]:
        """The pictures of finished tokens."""
        # One by one: convolutions round differently in other batches, enough to move a value of 255.
        return [to_images(self.model.image_tokenizer.decode(one[None]))[0] for one in tokens]

    def revise(
        self,
        image: Image.Image,
        share: float = 0.25,
        prompt: Condition = None,
        *,
        seed: int = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Image.Image:
        """Draw the ``share`` of the picture anew of which the model is least sure; the other tokens never change.

        The denoiser looks at all tokens as if so many were wrong (`vqdiff.sampling.doubtful`). ``prompt`` counts both
        for what is doubtful and for what is drawn. A share of 0 is the image tokenizer's own reconstruction.

        Raises InputError for a share outside [0, 1], and as a call does.
        """
        settings, x0, wish = self.settings(**changes), self._tokenize(image), self._wish(prompt)
        with torch.inference_mode():
            denoise = self.model.bind(self.model.encode(wish))
            redraw = doubtful(denoise, self.model.schedule, x0.to(self.model.device), share).cpu()
        tokens = self._draw(wish, seed, settings, negative, x0, redraw=redraw)
        return editing.unfit(self.decode(tokens)[0], image.size)

    def stream(
        self,
        prompt: Condition = None,
        *,
        seed: int = 0,
        negative: Condition = None,
        settings: SamplingSettings | None = None,
    ) -> Iterator[Preview]:
        """Draw one picture and yield it after every step, with its tokens and the purity of every position."""
        side = self.model.image_tokenizer.grid_size
        settings = settings or self.model.sampling
        for frame in self.frames(self.conditions(prompt), [seed], settings, self._avoid(negative, settings)):
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
        model, null = self.model, None
        if negative is None and all(one is None for one in conditions or ()):
            settings = replace(settings, guidance=1.0)  # from ∅ to ∅ there is no way
        if Guidance.of(settings.guidance).scale != 1:
            null = model.encode([negative] * len(seeds))
        yield from sample(
            model.bind(model.encode(conditions), null),
            model.schedule,
            num_tokens=model.num_tokens,
            seeds=seeds,
            settings=settings,
            canvas=canvas,
            device=model.device,
        )

    def _draw(
        self,
        conditions: Sequence[Condition],
        seed: int,
        settings: SamplingSettings,
        negative: Condition,
        x0: Int[Tensor, "1 L"] | None = None,
        *,
        redraw: Bool[Tensor, "1 L"] | None = None,
        start: int | None = None,
        batch_size: int = 8,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Int[Tensor, "N L"]:
        """Tokens for every condition, from nothing or from x0 noised where ``redraw`` says, to the time ``start``."""
        negative = self._avoid(negative, settings)
        drawn = list[Tensor]()
        for first in range(0, len(conditions), batch_size):
            batch = conditions[first : first + batch_size]
            seeds, canvas, frame = range(seed + first, seed + first + len(batch)), None, None
            if x0 is not None:
                canvas = Canvas.noised(
                    self.model.schedule,
                    get_sampler(settings.sampler),
                    x0.expand(len(batch), -1),
                    seeds,
                    redraw=None if redraw is None else redraw.expand(len(batch), -1),
                    start=None if start is None else [start] * len(batch),
                )
            for frame in self.frames(batch, seeds, settings, negative, canvas):
                if on_step is not None:
                    on_step(first * frame.steps + frame.step * len(batch), len(conditions) * frame.steps)
            assert frame is not None  # every sampler takes a step
            drawn.append(frame.tokens)
        return torch.cat(drawn)

    @torch.inference_mode()
    def _tokenize(self, image: Image.Image) -> Int[Tensor, "1 L"]:
        """The tokens of a picture of any size, on the CPU."""
        pixels = to_pixels(np.asarray(editing.fit(image, self.model.image_tokenizer.config.image_size))[None])
        return self.model.image_tokenizer.encode(pixels.to(self.model.device)).cpu()

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
        settings = replace(self.model.sampling, **{k: v for k, v in changes.items() if v is not None})
        settings.check(self.model.num_tokens)
        return settings

    def conditions(self, prompts: Condition | Sequence[Condition]) -> list[Condition]:
        """Prompts or labels as a checked list; for an unconditional model a list of one nothing."""
        if self.model.text_encoder is None and self.model.num_classes is None:
            return [None]
        conditions: list[Condition] = [prompts] if isinstance(prompts, str | int | Blend) else list(prompts or ())
        if not conditions:
            raise InputError("no prompt: say what to draw")
        parts = [part for one in conditions for part in (one.parts if isinstance(one, Blend) else (one,))]
        for part in parts:
            if isinstance(part, str) and not part.strip():
                raise InputError("the prompt is empty: say what to draw")
        if self.model.text_encoder is not None:
            self.model.text_encoder.check([str(part) for part in parts if part is not None])
        return conditions

    def _wish(self, prompt: Condition) -> list[Condition]:
        return [None] if prompt is None else self.conditions(prompt)

    def _avoid(self, negative: Condition, settings: SamplingSettings) -> Condition:
        if negative is not None and Guidance.of(settings.guidance).scale == 1:
            raise InputError("a negative prompt acts through guidance, which is off: give a guidance above 1")
        return self._wish(negative)[0]

    def save(self, folder: str | Path) -> None:
        """Write the model folder."""
        self.model.save(Path(folder))


def bundled() -> dict[str, Path]:
    """The models that come with the package, by name."""
    root = Path(str(resources.files("vqdiff"))) / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/model_index.json"))}


def load(
    source: str | Path = "emoji", *, device: str = "auto", bf16: bool | None = None, **extras: Unpack[Extras]
) -> Pipeline:
    """A pipeline from a bundled name, a folder of ours or of diffusers, a ``.pth`` checkpoint, or a Hub id.

    A Hub id is owner/name, or owner/name@revision; it is fetched, by huggingface_hub, where no such path is here.

    ``device`` is "auto" (CUDA if there, else the CPU) or a torch device; ``bf16`` runs the denoiser in
    bfloat16, by default where the machine has units for it. ``extras`` are what a checkpoint leaves open, such as
    ``image_tokenizer``, the file of its codec; see :class:`vqdiff.checkpoints.microsoft.Extras`.

    Raises InputError for an unknown name, a broken folder or a device that is not there.
    """
    where = pick_device(device)
    if bf16 is None:
        bf16 = has_bf16_units(where)
    folder = find(source)
    dtype = torch.bfloat16 if bf16 else None
    return Pipeline(read_model(folder, extras, dtype=dtype).to(where, dtype))


def find(source: str | Path) -> Path:
    """The folder or file that ``source`` names; InputError if it is neither one nor a bundled model nor on the Hub."""
    names = bundled()
    path = names.get(str(source), Path(source))
    if not path.exists() and is_hub_id(str(source)):
        return download(str(source))
    if not path.exists():
        near = difflib.get_close_matches(str(source), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"bundled: {', '.join(names) or 'none'}"
        raise InputError(f"no model {str(source)!r}: it is neither a folder, a file nor a bundled model; {hint}")
    return path


def pick_device(name: str) -> torch.device:
    """The torch device called ``name``; "auto" is CUDA if there, else the CPU. InputError if it is not there.

    Sampling draws in float64, which Apple's GPUs lack: "mps" is refused.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("mps"):
        raise InputError("the device 'mps' has no float64, which sampling needs: use cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} is not there: use cpu or auto ({str(error).splitlines()[0]})") from error
    return device


def has_bf16_units(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones on ``device``."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
