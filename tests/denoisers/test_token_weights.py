"""A text token of weight w counts like w² copies of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from small_denoisers import CONDITIONS, NETWORKS, TIMES, TOKENS, trained
from vqdiff.denoisers.packed import pack

KINDS = ("text", "modern")


def network(kind: str, packed: bool) -> Any:
    torch.manual_seed(0)
    denoiser = trained(NETWORKS[kind]())
    return pack(denoiser) if packed else denoiser


def features(kind: str) -> Tensor:
    condition = CONDITIONS[kind]
    assert condition is not None
    return condition[:3]


def with_weights(text: Tensor, weights: list[float]) -> Tensor:
    return torch.cat([text, torch.tensor(weights).expand(len(text), -1)[..., None]], -1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_counts_like_copies_of_it(kind: str, packed: bool) -> None:
    denoiser, text = network(kind, packed), features(kind)
    logits = denoiser(TOKENS[:3], TIMES[:3], text)
    weighted = denoiser(TOKENS[:3], TIMES[:3], with_weights(text, [1, 2, 1, 1, 3**0.5, 1, 1]))
    copied = torch.cat([text, text[:, [1, 1, 1, 4, 4]]], 1)  # four and three in all
    torch.testing.assert_close(weighted, denoiser(TOKENS[:3], TIMES[:3], copied), atol=2e-4, rtol=1e-4)
    assert (weighted - logits).abs().max() > 0.01


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_of_almost_no_weight_is_as_if_it_were_not_there(kind: str, packed: bool) -> None:
    denoiser, text = network(kind, packed), features(kind)
    weighted = denoiser(TOKENS[:3], TIMES[:3], with_weights(text, [1, 1e-6, 1, 1, 1, 1, 1]))
    shorter = denoiser(TOKENS[:3], TIMES[:3], text[:, [0, 2, 3, 4, 5, 6]])
    torch.testing.assert_close(weighted, shorter, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_1_change_no_bit(kind: str, packed: bool) -> None:
    denoiser, text = network(kind, packed), features(kind)
    weighted = denoiser(TOKENS[:3], TIMES[:3], with_weights(text, [1] * 7))
    assert torch.equal(weighted, denoiser(TOKENS[:3], TIMES[:3], text))


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_and_other_texts_join_and_leave(kind: str) -> None:
    denoiser, text = network(kind, packed=True), features(kind)
    weighted = with_weights(text[:1], [1, 2, 1, 1, 0.5, 1, 1])
    both = denoiser.prepare(text[1:2]).join(denoiser.prepare(weighted), denoiser.prepare(text[2:]))
    rows = [(1, weighted), (0, text[1:2]), (2, text[2:])]
    for place, (row, condition) in enumerate(rows):
        one = both.select([row for row, _ in rows]).one(place)
        assert torch.equal(denoiser(TOKENS[:1], TIMES[:1], one), denoiser(TOKENS[:1], TIMES[:1], condition))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind: str) -> None:
    denoiser, text = pack(network(kind, packed=False).to(torch.bfloat16)), features(kind)
    weighted = with_weights(text, [1, 2, 1, 1, 1, 1, 1])
    exact = network(kind, packed=False)(TOKENS[:3], TIMES[:3], weighted)
    plain, found = (denoiser(TOKENS[:3], TIMES[:3], one) for one in (text, weighted))
    assert (found - exact).abs().mean() < 0.5 * (plain - exact).abs().mean()
