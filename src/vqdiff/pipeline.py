"""Text → pictures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor

from vqdiff.checkpoints import Extras, read_model
from vqdiff.checkpoints.hub import download, is_hub_id
from vqdiff.errors import InputError
from vqdiff.model import Model
from vqdiff.pictures import to_images
from vqdiff.sampling import Frame, SamplingSettings, sample
from vqdiff.shapes import Float, Int


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
        prompts: str | int | Sequence[str | int] | None = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        batch_size: int = 8,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        truncation: float | None = None,
        prior_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Draw ``num_images`` pictures of every prompt (or label), prompt by prompt.

        Picture i of the whole call has seed ``seed + i`` and does not depend on ``batch_size``. Settings left at None
        are the model's own. ``on_step(done, total)`` is told of progress in network calls × pictures.

        Raises InputError for an empty or over-long prompt, or a setting out of range.
        """
        settings = self.settings(
            steps=steps, guidance=guidance, sampler=sampler, truncation=truncation, prior_scale=prior_scale
        )
        jobs = [one for one in self.conditions(prompts) for _ in range(num_images)]
        images = list[Image.Image]()
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            frame = None
            for frame in self.frames(batch, [seed + start + i for i in range(len(batch))], settings):
                if on_step is not None:
                    on_step(start * frame.steps + frame.step * len(batch), len(jobs) * frame.steps)
            assert frame is not None  # every sampler takes a step
            images += self.decode(frame.tokens)
        return images

    @torch.inference_mode()
    def decode(self, tokens: Int[Tensor, "B L"]) -> list[Image.Image]:
        """The pictures of finished tokens."""
        # One by one: convolutions round differently in other batches, enough to move a value of 255.
        return [to_images(self.model.image_tokenizer.decode(one[None]))[0] for one in tokens]

    def stream(
        self, prompt: str | int | None = None, *, seed: int = 0, settings: SamplingSettings | None = None
    ) -> Iterator[Preview]:
        """Draw one picture and yield it after every step, with its tokens and the purity of every position."""
        side = self.model.image_tokenizer.grid_size
        for frame in self.frames(self.conditions(prompt), [seed], settings or self.model.sampling):
            yield Preview(
                frame.step,
                frame.steps,
                to_images(self.preview(frame.tokens))[0],
                frame.tokens[0],
                frame.confidence[0].view(side, side),
            )

    @torch.inference_mode()
    def frames(
        self, conditions: Sequence[str | int] | None, seeds: Sequence[int], settings: SamplingSettings
    ) -> Iterator[Frame]:
        """The sampling loop for one batch of conditions, one seed each, as tensors."""
        model = self.model
        denoise = model.bind(model.encode(conditions), guided=settings.guidance != 1)
        yield from sample(
            denoise,
            model.schedule,
            num_tokens=model.num_tokens,
            seeds=seeds,
            settings=settings,
            device=model.device,
        )

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

    def conditions(self, prompts: str | int | Sequence[str | int] | None) -> list[str | int]:
        """Prompts or labels as a checked list; for an unconditional model a list of one blank."""
        if self.model.text_encoder is None and self.model.num_classes is None:
            return [""]
        conditions = [prompts] if isinstance(prompts, str | int) else list(prompts or ())
        if not conditions:
            raise InputError("no prompt: say what to draw")
        for prompt in conditions:
            if isinstance(prompt, str) and not prompt.strip():
                raise InputError("the prompt is empty: say what to draw")
        if self.model.text_encoder is not None:
            self.model.text_encoder.check([str(one) for one in conditions])
        return conditions

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
