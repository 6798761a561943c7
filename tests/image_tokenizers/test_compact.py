"""The compact tokenizer: shapes, ranges, the blank code, and that it can learn."""

from __future__ import annotations

import pytest
import torch

from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer

pytestmark = pytest.mark.numeric

SMALL = CompactConfig(16, (8, 16), (0, 1), (1, 1), num_codes=32, code_dim=4)


@pytest.mark.parametrize("config", [SMALL, CompactConfig(16, (8, 16), (0, 1), (1, 1), fsq_levels=(4, 4))])
def test_shapes_and_ranges(config: CompactConfig) -> None:
    model = CompactTokenizer(config).eval()
    pixels = torch.rand(3, 3, 16, 16)
    tokens = model.encode(pixels)
    decoded = model.decode(tokens)
    assert tokens.shape == (3, 16)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < model.num_codes
    assert decoded.shape == pixels.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1


def test_white_patches_have_code_zero_and_no_others() -> None:
    pixels = torch.ones(1, 3, 16, 16)
    pixels[0, 1, 5, 9] = 0.5  # patch size 4: row 1, column 2
    blank = torch.ones(16, dtype=torch.bool)
    blank[1 * 4 + 2] = False
    assert torch.equal(CompactTokenizer(SMALL).eval().encode(pixels)[0] == 0, blank)


def test_a_token_sees_only_its_neighbourhood() -> None:
    model = CompactTokenizer(SMALL).eval()
    for parameter in model.parameters():  # the zero-initialised convolutions would hide their reach
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.rand(1, 3, 32, 32)
    other = pixels.clone()
    other[..., 16:] = torch.rand(1, 3, 32, 16)
    change = (model.encoder(pixels) - model.encoder(other)).abs().amax((0, 1, 2))
    assert (change[:1] == 0).all()  # two 3 × 3 convolutions at the tokens' level, and one below: three tokens far
    assert (change[1:] > 0).all()


def test_it_learns_a_handful_of_pictures() -> None:
    torch.manual_seed(0)
    model = CompactTokenizer(SMALL).train()
    pixels = torch.rand(4, 3, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        out = model(pixels)
        loss = (out.pixels - pixels).square().mean() + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    error = (model.decode(model.encode(pixels)) - pixels).square().mean()
    assert error < 0.01 < pixels.var()


def test_it_begins_with_the_layers_of_a_smaller_one() -> None:
    torch.manual_seed(0)
    smaller = CompactTokenizer(CompactConfig(16, (8, 16), (0, 1), (1, 1), num_codes=8, code_dim=4))
    larger = CompactTokenizer(CompactConfig(32, (4, 8, 16), (0, 0, 2), (0, 1, 2), num_codes=8, code_dim=4))
    for network in (smaller, larger):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    before = {name: value.clone() for name, value in larger.state_dict().items()}
    larger.grow(smaller)
    theirs, changed = smaller.state_dict(), {}
    for name, value in larger.state_dict().items():
        if not value.equal(before[name]):
            changed[name] = next(other for other, one in theirs.items() if one.equal(value))
    taken = {name.rpartition(".")[0] for name in changed.values()}
    blocks = [f"{part}.{conv}" for part in ("encoder.4", "decoder.1", "decoder.5") for conv in ("conv1", "conv2")]
    assert taken >= {*blocks, "encoder.6", "decoder.0", "decoder.3"}
    assert "encoder.1" not in taken  # from 12 channels of pixels to 8, where the larger one has 4
    assert "quantizer.codebook" not in changed


def test_errors() -> None:
    with pytest.raises(InputError, match="16 × 16"):
        CompactTokenizer(SMALL).encode(torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="patch size"):
        CompactConfig(image_size=100)
    with pytest.raises(InputError, match="one entry per level"):
        CompactConfig(channels=(64, 128))
