"""How much memory a model of full size takes to load."""

from __future__ import annotations

from pathlib import Path

import pytest

from full_size import large_folder, memory_of


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [True, False])
def test_loading_takes_no_second_copy(bf16: bool, tmp_path: Path) -> None:
    """In bfloat16, 1.3 billion parameters take 2.6 GB; the bound for all is 8, and 5 show a second copy."""
    folder, parameters = large_folder(tmp_path / "large")
    assert parameters > 1.29e9
    _, memory = memory_of(f"""
import torch, vqdiff
pipe = vqdiff.load({str(folder)!r}, device="cpu", bf16={bf16})
weights = list(pipe.model.denoiser.parameters())
assert weights[0].dtype == torch.{"bfloat16" if bf16 else "float32"}
assert all(bool((weight == 0).all()) for weight in weights)
""")
    assert memory < (5e9 if bf16 else 8e9)
