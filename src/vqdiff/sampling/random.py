"""Random numbers that belong to an image: Philox-4x32-10 in tensor arithmetic.

Counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a number is a function of
(seed, step, position, index) only, so an image is the same alone, in any batch and on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqdiff.foundation.shapes import Float, Int

__all__ = ["philox", "uniforms"]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_HALF_ULP = 2.0**-53

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Encrypt four 32-bit counter words with two 32-bit key words: Philox-4x32-10.

    Words are int64 tensors with values in [0, 2^32) and shapes that broadcast together. A product of two words
    needs 64 bits; int64 wraps, which leaves both halves right.
    """
    c0, c1, c2, c3 = counter
    zeros = torch.zeros_like(c0 ^ c1 ^ c2 ^ c3)
    even, odd = (torch.stack([a + zeros, b + zeros]) for a, b in ((c0, c2), (c1, c3)))
    multipliers, steps = (
        torch.stack([torch.full_like(zeros, each) for each in pair]) for pair in (_MULTIPLIERS, _KEY_STEPS)
    )
    keys = torch.stack([key[0] + zeros, key[1] + zeros])
    for _ in range(_ROUNDS):
        # The two words at even places at once: the products of each go to the other.
        product = (even * multipliers).flip(0)
        even, odd = (product >> 32 & _LOW) ^ odd ^ keys, product & _LOW
        keys = keys + steps & _LOW
    return even[0], odd[0], even[1], odd[1]


def uniforms(
    seeds: Int[Tensor, "B"], step: Int[Tensor, "B"] | int, num_tokens: int, count: int
) -> Float[Tensor, "N B L"]:
    """Draw `count` independent uniforms per image and position, float64, strictly between 0 and 1.

    seeds: int64, any value. step: 0 for the initial noise, 1.. for the steps of the image, one number or one per
    row. Uniform n of position l is the same whatever `num_tokens` and `count` are.
    """
    device = seeds.device
    key = (seeds[:, None] & _LOW, seeds[:, None] >> 32 & _LOW)
    steps = (torch.full_like(seeds, step) if isinstance(step, int) else step)[:, None]
    positions = torch.arange(num_tokens, device=device)
    blocks = torch.arange((count + 1) // 2, device=device)[:, None, None]
    words = philox((positions, steps, blocks, torch.zeros_like(blocks)), key)
    high, low = torch.stack(words[0::2], 1), torch.stack(words[1::2], 1)  # each block holds two numbers of 52 bits
    bits = (high << 20 | low >> 12).flatten(0, 1)[:count]
    return (2 * bits + 1).double() * _HALF_ULP
