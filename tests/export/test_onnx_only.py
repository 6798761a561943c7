"""The example that draws without PyTorch computes what vqdiff computes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundled_model import bundled_pipeline
from vqdiff.diffusion import Schedule
from vqdiff.sampling import SamplingSettings, sample
from vqdiff.sampling.random import uniforms
from vqdiff.text import TextEncoder, plain_text

ROOT = Path(__file__).parents[2]
L, K, T = 64, 90, 20


def run(*arguments: object, folder: Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=folder)


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_only", ROOT / "examples" / "onnx_only.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = _example()


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3, 2**64 - 1])
def test_the_random_numbers_are_ours(seed: int) -> None:
    seeds = torch.tensor([(seed + 2**63) % 2**64 - 2**63])
    np.testing.assert_array_equal(example.uniforms(seed, 5, L), uniforms(seeds, 5, L, 2)[:, 0].numpy())


@pytest.mark.parametrize("sampler", ["purity", "fewer-tokens"])
@pytest.mark.parametrize("guidance", [2.0, 0.3])
@pytest.mark.parametrize(("truncation", "prior_scale", "steps"), [(0.9, 2.0, 7), (1.0, 0.0, 64)])
def test_the_samplers_are_ours(
    sampler: str, guidance: float, truncation: float, prior_scale: float, steps: int
) -> None:
    """The logits are functions of tokens and time that both read from one table, so every token must agree."""
    settings = SamplingSettings(
        sampler=sampler, steps=steps, guidance=guidance, truncation=truncation, prior_scale=prior_scale
    )
    schedule = Schedule.mask_only(T, K)
    table = 3 * torch.randn(2, T + 1, L, K)

    def logits(tokens: torch.Tensor, t: int) -> torch.Tensor:
        seen = torch.where(tokens == K, 0, tokens).sum() % 7
        return table[:, t].roll(int(seen), 1)

    def ours(tokens: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return logits(tokens[0], int(t[0]))

    def theirs(tokens: Any, t: int) -> Any:
        return tuple(logits(torch.from_numpy(tokens), t).numpy())

    described = {"gamma_bar": schedule.gamma_bar.tolist()}
    for seed in (0, 1):
        (*_, last) = sample(ours, schedule, num_tokens=L, seeds=[seed], settings=settings)
        found = example.sample(theirs, described, {"num_tokens": L, "mask": K}, vars(settings), seed)
        assert found.tolist() == last.tokens[0].tolist()


def test_the_word_pieces_are_ours() -> None:
    encoder = bundled_pipeline().model.text_encoder
    assert isinstance(encoder, TextEncoder)
    described = json.loads((encoder.folder / "tokenizer.json").read_text("utf-8"))
    texts = [
        "a red apple",
        "",
        "A cat-lover's  café, flat!",
        "“hello” 3d (twemoji) + 2$ x=y",
        "qwxzkv 苹果 a\tb\u0000c\u200d",
        "Ünïcödé naïveté ÉCOLE",
        "x" * 101,
    ]
    for text in texts:
        assert example.word_pieces(described, text) == encoder.tokenizer.encode(text).ids, text


def test_prompt_weights_are_refused_and_other_parentheses_are_text() -> None:
    for prompt in ("a (red:1.4) apple", "((red:2):.5)", "(a b: 3 ) c", r"\( (red:1)"):
        with pytest.raises(SystemExit, match=r"take no prompt weights: write \(.*red|take no prompt weights.*a b"):
            example.without_notation(prompt)
    for prompt in ("flag (old)", "a clock: 12:30", r"at \(12:30\)", "(red: dark)", "(vitamin: e)", "a) :2) b"):
        assert example.without_notation(prompt) == plain_text(prompt)


def test_the_file_is_a_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(example.png(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


@pytest.mark.slow
def test_an_image_of_the_bundled_model_is_ours(tmp_path: Path) -> None:
    """Step by step from the same tokens, since a different rounding may decide between two near-equal tokens."""
    folder = tmp_path / "emoji"
    run("-m", "vqdiff", "export", "emoji", "-o", folder, folder=tmp_path)
    blocked = "import sys; sys.modules['torch'] = sys.modules['vqdiff'] = None; import runpy; sys.argv = sys.argv[1:]"
    blocked += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    run("-c", blocked, ROOT / "examples" / "onnx_only.py", folder, "a red apple", "apple.png", "3", folder=tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "apple.png")).astype(int)

    pipe = bundled_pipeline("float32")
    settings, K, L = pipe.model.sampling, pipe.model.schedule.num_codes, pipe.model.num_tokens
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    condition, networks = example.text_condition(folder, manifest, "a red apple"), example.Networks(folder)
    bound = pipe.model.bind(pipe.model.encode(["a red apple"]), pipe.model.null(1))
    gamma_bar, tokens, different = pipe.model.schedule.gamma_bar.numpy(), torch.full((1, L), K), list[int]()
    for frame in pipe.frames(["a red apple"], [3], settings):
        masked = (tokens == K)[0].numpy()
        t = example.time_of(gamma_bar, masked.mean())
        logits = networks("denoiser", tokens.repeat(2, 1).numpy(), np.full(2, t), condition)
        with torch.inference_mode():
            wanted = bound(tokens.repeat(2, 1), torch.full((2,), t)).numpy()
        assert np.abs(logits - wanted).max() < 1e-3 * np.abs(wanted).max()
        count, u = int(frame.revealed.sum()), example.uniforms(3, frame.step, L)
        found = example.reveal(tokens[0].numpy(), masked, tuple(logits), count, vars(settings), u)
        different.append(int((found != frame.tokens[0].numpy()).sum()))
        tokens = frame.tokens
    assert max(different) <= 4
    assert sum(different) <= 8

    def denoise(tokens: Any, t: int) -> Any:
        return tuple(networks("denoiser", np.stack([tokens] * 2), np.full(2, t), condition))

    free = example.sample(denoise, manifest["schedule"], manifest["tokens"], manifest["sampling"], 3)
    image = np.asarray(pipe.decode(torch.from_numpy(free)[None])[0]).astype(int)
    assert np.abs(image - drawn).max() <= 1
