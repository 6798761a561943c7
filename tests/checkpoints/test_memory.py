"""How much memory a model of full size takes to load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from full_size import large_folder, memory_of
from vqdiff.checkpoints.microsoft import names_of
from vqdiff.checkpoints.presets import architecture
from vqdiff.checkpoints.reading import scatter
from vqdiff.denoisers.classic import ClassicDenoiser


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 5e9), ("float32", 8e9), ("int8", 5e9)])
def test_loading_takes_no_second_copy(precision: str, bound: float, tmp_path: Path) -> None:
    """In bfloat16, 1.3 billion parameters take 2.6 GB; the bound for all is 8, and 5 show a second copy."""
    folder, parameters = large_folder(tmp_path / "large")
    assert parameters > 1.29e9
    _, memory = memory_of(f"""
import torch, vqdiff
from vqdiff.denoisers.packed import precision_of
pipe = vqdiff.load({str(folder)!r}, device="cpu", precision={precision!r})
assert precision_of(pipe.model.denoiser) == {precision!r}
assert all(bool((weight == 0).all()) for weight in pipe.model.denoiser.parameters())
""")
    assert memory < bound


@pytest.mark.slow
def test_info_reads_no_weights_of_a_checkpoint(tmp_path: Path) -> None:
    config = architecture("ffhq").denoiser
    with torch.device("meta"):
        keys = scatter(ClassicDenoiser(config), names_of(config))
    ema = {f"transformer.{key}": torch.ones(value.shape) for key, value in keys.items()}
    torch.save({"model": {}, "ema": ema}, tmp_path / "ffhq.pth")
    del ema
    size = (tmp_path / "ffhq.pth").stat().st_size
    record, memory = memory_of(f"from vqdiff.cli import main\nmain(['info', {str(tmp_path / 'ffhq.pth')!r}, '--json'])")
    assert json.loads(record)["parameters"]["denoiser"] == 411_185_664
    assert memory < 1.2e9 < size
