from __future__ import annotations

from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from vqdiff.sampling.orders import by_confidence, by_halton, by_purity, by_random
from vqdiff.sampling.random import uniforms


def test_purity_draws_without_replacement_with_its_weights() -> None:
    """The order of the scores has the probabilities of successive draws, w_a / W · w_b / (W − w_a) …"""
    weights = [0.9, 0.5, 0.2, 0.05]
    draws = 50_000
    u = uniforms(torch.arange(draws), 1, 4, 1)[0]
    orders = by_purity(torch.tensor(weights).expand(draws, 4), u).argsort(1, descending=True) @ torch.tensor(
        [64, 16, 4, 1]
    )
    observed, expected = [], []
    for a, b, c, d in permutations(range(4)):
        left, probability = sum(weights), 1.0
        for i in (a, b, c, d):
            probability *= weights[i] / left
            left -= weights[i]
        observed.append(int((orders == a * 64 + b * 16 + c * 4 + d).sum()))
        expected.append(draws * probability)
    assert chisquare(observed, expected).pvalue > 1e-4


def test_random_and_confidence() -> None:
    purity, u = torch.tensor([[0.2, 0.9]]), torch.tensor([[0.7, 0.1]])
    assert by_random(purity, u).argmax() == 0
    assert by_confidence(purity, u).argmax() == 1


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 12, 64, 256])
def test_halton_visits_every_position_once(num_tokens: int) -> None:
    scores = by_halton(torch.ones(2, num_tokens), torch.zeros(2, num_tokens))
    assert scores[0].sort().values.tolist() == list(range(1 - num_tokens, 1))
    assert (scores[0] == scores[1]).all()


def test_halton_covers_evenly() -> None:
    """The first 32 of 16 × 16 positions leave none of the sixteen 4 × 4 blocks empty; 32 random ones mostly do."""
    first = by_halton(torch.ones(1, 256), torch.zeros(1, 256))[0].argsort(descending=True)[:32]
    blocks = first // 64 * 4 + first % 16 // 4
    assert blocks.unique().numel() == 16
