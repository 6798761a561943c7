"""A diffusers folder with a denoiser about the size of ITHQ's, as a header before 5.2 GB of holes in the disk."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from golden_cases import GOLDEN
from vqdiff.checkpoints.diffusers import DENOISER_NAMES
from vqdiff.checkpoints.reading import scatter
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser


def large_folder(path: Path) -> tuple[Path, int]:
    """The folder, its other parts being those of the golden one, and the number of the denoiser's parameters."""
    folder = Path(shutil.copytree(GOLDEN / "diffusers" / "pipeline", path))
    with torch.device("meta"):
        config = ClassicConfig(18, 100, 6, 1408, 36, 16, text_width=32, position_rows=6, position_columns=6)
        denoiser = ClassicDenoiser(config)
    header, end = {}, 0
    for name, value in scatter(denoiser, DENOISER_NAMES).items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + 4 * value.numel()]}
        end += 4 * value.numel()
    sizes = json.loads((folder / "transformer" / "config.json").read_text())
    sizes |= {"num_attention_heads": 16, "attention_head_dim": 88, "num_layers": 36}
    (folder / "transformer" / "config.json").write_text(json.dumps(sizes))
    content = json.dumps(header).encode()
    with (folder / "transformer" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
    return folder, end // 4


def memory_of(code: str) -> tuple[str, int]:
    """What a fresh interpreter prints when it runs ``code``, and the most bytes that it had in memory (on Linux)."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("this system does not tell how much memory a process had")
    # Not getrusage: its maximum begins with what the parent had.
    code += "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    out = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    *lines, kilobytes = out.splitlines()
    return "\n".join(lines), int(kilobytes) * 1024
