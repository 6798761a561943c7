"""Generate many images for evaluation: one seed each, resumable, and shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.shapes import Int
from vqdiff.model import Job
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import SamplingSettings


def processes(device: str) -> str:
    """Join the processes of ``accelerate launch``, if there are several, and return the device of this one."""
    from accelerate import PartialState

    # Accelerate joins processes without accelerators only with cpu=True.
    own = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available()).device
    return str(own) if device == "auto" and own is not None and own.type in ("cpu", "cuda") else device


def draw(
    pipe: Pipeline, prompts: Sequence[str], seed: int, settings: SamplingSettings, folder: Path, *, batch_size: int = 16
) -> Int[Tensor, "N L"]:
    """Generate the tokens of one image per prompt, image i with seed ``seed + i``.

    Every finished batch is a file in ``folder`` and is not generated again. Under ``accelerate launch`` the processes
    share the batches; all of them return all tokens.
    """
    from accelerate import PartialState

    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    spans = [(start, min(start + batch_size, len(prompts))) for start in range(0, len(prompts), batch_size)]
    files = [folder / f"{start:06d}-{stop:06d}.safetensors" for start, stop in spans]
    mine = list(zip(spans, files, strict=True))[state.process_index :: state.num_processes]
    missing = [(span, file) for span, file in mine if not file.exists()]
    console = Console(stderr=True)
    label = f"{settings.sampler}, {settings.steps} steps, guidance {settings.guidance}"
    quiet = not console.is_terminal or not state.is_main_process
    for (start, stop), file in track(missing, label, console=console, transient=True, disable=quiet):
        tokens = pipe.tokens(Job(prompts[start:stop], range(seed + start, seed + stop), settings))
        with atomic_path(file) as path:
            save_file({"tokens": tokens.to("cpu", torch.int32)}, path)
    state.wait_for_everyone()
    return torch.cat([load_file(file)["tokens"] for file in files]).long()


@contextmanager
def only_main_process() -> Iterator[bool]:
    """Yield whether this process is the main one; the others wait until that has left the block."""
    from accelerate import PartialState

    state = PartialState()
    yield state.is_main_process
    state.wait_for_everyone()
