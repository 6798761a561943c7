"""The modern denoiser: conditions, preparation, padding, and that it depends on what it should."""

from __future__ import annotations

import pytest
import torch

from vqdiff.denoisers import ModernConfig, ModernDenoiser
from vqdiff.denoisers.modern import rotate, rotations
from vqdiff.foundation.errors import InputError

pytestmark = pytest.mark.numeric

SIZES = {"num_codes": 20, "num_steps": 10, "grid_size": 4, "width": 32, "depth": 2, "heads": 2, "token_width": 16}


def build(**changes: int | None) -> ModernDenoiser:
    torch.manual_seed(0)
    model = ModernDenoiser(ModernConfig(**SIZES | changes)).eval()
    for parameter in model.parameters():  # adaLN-zero starts as the identity: give every path a say
        if parameter.eq(0).all():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def features(batch: int = 3, tokens: int = 5) -> torch.Tensor:
    return torch.randn(batch, tokens, 8, generator=torch.Generator().manual_seed(1))


TOKENS = torch.randint(0, 21, (3, 16), generator=torch.Generator().manual_seed(2))
T = torch.tensor([1, 5, 10])


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["text", "class", "none"])
def test_shapes_and_preparation(kind: str, patch_size: int) -> None:
    changes = {"text": {"text_width": 8}, "class": {"num_classes": 7}, "none": {}}[kind]
    condition = {"text": features(), "class": torch.tensor([0, 6, 7]), "none": None}[kind]
    model = build(patch_size=patch_size, **changes)
    logits = model(TOKENS, T, condition)
    assert logits.shape == (3, 16, 20)
    torch.testing.assert_close(model(TOKENS, T, model.prepare(condition)), logits)


def test_every_input_matters() -> None:
    model = build(text_width=8)
    logits = model(TOKENS, T, features())
    assert not torch.allclose(model(TOKENS, T + torch.tensor([1, 1, -1]), features()), logits)
    assert not torch.allclose(model(TOKENS, T, features() + 1), logits)
    moved = TOKENS.clone()
    moved[0, 15] = (moved[0, 15] + 1) % 20
    changed = (model(moved, T, features()) - logits).abs().amax(2)
    assert (changed[0] > 0).all()
    assert (changed[1:] < 1e-5).all()


def test_padding_changes_nothing() -> None:
    model = build(text_width=8)
    padded = torch.cat([features(), torch.zeros(3, 4, 8)], 1)
    torch.testing.assert_close(model(TOKENS, T, padded), model(TOKENS, T, features()))


def test_an_all_zero_condition_is_finite() -> None:
    assert build(text_width=8)(TOKENS, T, torch.zeros(3, 5, 8)).isfinite().all()


def test_positions_matter_only_through_their_difference() -> None:
    rope = rotations(4, 8)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotate(x.expand(1, 1, 16, 8), rope)[0, 0].view(4, 4, 8) for x in (q, k))
    scores = torch.einsum("abc,dec->abde", turned_q, turned_k)
    torch.testing.assert_close(scores[2, 1, 3, 1], scores[0, 3, 1, 3])
    torch.testing.assert_close(scores[2, 1, 3, 3], scores[1, 0, 2, 2])
    assert not torch.isclose(scores[0, 0, 1, 2], scores[0, 0, 2, 1])


def test_bfloat16_is_close() -> None:
    model = build(text_width=8)
    exact = model(TOKENS, T, features())
    rough = model.bfloat16()(TOKENS, T, features())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_errors() -> None:
    with pytest.raises(InputError, match="patch_size"):
        build(patch_size=3)
    with pytest.raises(InputError, match="not both"):
        build(text_width=8, num_classes=3)
    with pytest.raises(InputError, match="condition"):
        build(text_width=8)(TOKENS, T, None)


def test_positions_that_skip_the_middle_blocks() -> None:
    model = build(depth=5, text_width=8, patch_size=1)
    whole = model(TOKENS, T, features())
    everywhere = torch.stack([torch.randperm(16) for _ in range(3)])
    torch.testing.assert_close(model(TOKENS, T, features(), everywhere), whole)

    through = torch.tensor([[3, 7, 8], [15, 0, 2], [4, 5, 1]])
    given, out = list[torch.Tensor](), list[torch.Tensor]()

    def keep(block: torch.nn.Module, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        given.append(args[0])
        out.append(result)

    for block in model.blocks:
        block.register_forward_hook(keep)
    routed = model(TOKENS, T, features(), through)
    assert not torch.allclose(routed, whole)
    assert [len(x[0]) for x in given] == [16, 16, 3, 3, 16]
    rows = torch.arange(3)[:, None]
    torch.testing.assert_close(given[2], out[1][rows, through])
    last = out[1].clone()
    last[rows, through] = out[3]
    torch.testing.assert_close(given[4], last)
    torch.testing.assert_close(model(TOKENS, T, features(), through.flip(1)), routed)  # positions keep their places
