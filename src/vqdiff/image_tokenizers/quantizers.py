"""From latent vectors to codes and back: vector quantisation with an EMA codebook, and FSQ, which has none to learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.image_tokenizers.processes import all_sum, gathered


class Quantized(NamedTuple):
    """What a quantizer returns: latents ready for the decoder, their codes, and the loss to add."""

    latents: Float[Tensor, "*batch D"]
    tokens: Int[Tensor, "*batch"]
    loss: Float[Tensor, ""]


class Reconstruction(NamedTuple):
    """A training pass of a tokenizer: pixels as decoded, not clamped; the tokens in between; the quantizer's loss."""

    pixels: Float[Tensor, "B 3 H W"]
    tokens: Int[Tensor, "B L"]
    loss: Float[Tensor, ""]


class VectorQuantizer(nn.Module):
    """Nearest-neighbour codebook learned by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    For its first ``free_steps`` training passes latents go through unquantised; then the codes are placed on latents
    of the batch. A code whose average use falls below ``dead_below`` a batch is placed anew on a latent that is badly
    served, drawn with probability ∝ its squared error. Processes that train together (``torch.distributed``) hold the
    same codebook, that of all their latents. With ``reserve_blank``, code 0 belongs to the positions the caller calls
    blank, and to no other.

    Shapes: latents ``(*batch, D)``, tokens ``(*batch)`` with values 0..num_codes−1.
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor
    passes: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        decay: float = 0.98,
        commitment: float = 0.25,
        dead_below: float = 0.2,
        free_steps: int = 100,
        reserve_blank: bool = False,
    ) -> None:
        super().__init__()
        self.num_codes, self.dim = num_codes, dim
        self.decay, self.commitment, self.dead_below, self.free_steps = decay, commitment, dead_below, free_steps
        self.reserve_blank = reserve_blank
        self.register_buffer("codebook", torch.randn(num_codes, dim) / dim**0.5)
        # Training state, saved too, so that training can go on from any saved model.
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, dim))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def encode(
        self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None
    ) -> Int[Tensor, "*batch"]:
        """Nearest codes; code 0 exactly where ``blank`` if it is reserved."""
        flat = latents.reshape(-1, self.dim).float()
        first = int(self.reserve_blank)
        codes = self.codebook[first:]
        # argmin |z − e|² = argmax z·e − |e|²/2
        tokens = torch.addmm(-0.5 * codes.square().sum(1), flat, codes.t()).argmax(1) + first
        if self.reserve_blank and blank is not None:
            tokens = tokens.masked_fill(blank.reshape(-1), 0)
        return tokens.view(latents.shape[:-1])

    def decode(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """The codebook rows of ``tokens``."""
        return F.embedding(tokens, self.codebook)

    def forward(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Quantized:
        """Quantise with a straight-through gradient; in training mode also move the codebook."""
        flat = latents.detach().reshape(-1, self.dim).float()
        if self.training:
            self.passes += 1
            if self.passes <= self.free_steps:
                return Quantized(latents, self.encode(latents.detach(), blank), latents.new_zeros(()))
            if self.passes == self.free_steps + 1:
                everyones = gathered(flat)
                self._place(
                    everyones, torch.arange(self.num_codes, device=flat.device), torch.ones_like(everyones[:, 0])
                )
        tokens = self.encode(latents.detach(), blank)
        codes = self.decode(tokens)
        if self.training:
            self._follow(flat, tokens.reshape(-1), codes.reshape(-1, self.dim))
        loss = self.commitment * F.mse_loss(latents.float(), codes)
        return Quantized(latents + (codes - latents).detach(), tokens, loss)

    @torch.no_grad()
    def _follow(self, flat: Tensor, tokens: Tensor, codes: Tensor) -> None:
        """Move each code to the running mean of its latents; place dead codes anew."""
        # Counts stand beside the sums, so that one message tells the other processes both.
        counted = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
        totals = all_sum(flat.new_zeros(self.num_codes, self.dim + 1).index_add_(0, tokens, counted))
        self.usage.lerp_(totals[:, -1], 1 - self.decay)
        self.sums.lerp_(totals[:, :-1], 1 - self.decay)
        self.codebook.copy_(self.sums / self.usage.clamp_min(1e-5)[:, None])
        dead = self.usage < self.dead_below
        if self.reserve_blank:
            dead[0] = False
        if dead.any():
            errors = (flat - codes).square().sum(1)
            if self.reserve_blank:
                errors = errors.masked_fill(tokens == 0, 0)
            self._place(gathered(flat), dead.nonzero().squeeze(1), gathered(errors))

    @torch.no_grad()
    def _place(self, flat: Tensor, codes: Tensor, weights: Tensor) -> None:
        """Put ``codes`` on latents drawn ∝ ``weights``, with enough credit to gather latents before they die.

        The draw is a function of the pass, so that all processes, and a resumed run, place the same codes alike.
        """
        generator = torch.Generator().manual_seed(int(self.passes))
        # Without replacement: the first to ring of clocks whose rates are ∝ weights (Efraimidis, Spirakis 2006).
        clocks = torch.empty(len(weights)).exponential_(generator=generator).to(weights.device)
        order = (clocks / (weights + 1e-12)).argsort()
        rows = order[torch.arange(len(codes), device=order.device) % len(order)]
        self.codebook[codes] = flat[rows]
        self.usage[codes] = 5 * self.dead_below
        self.sums[codes] = flat[rows] * 5 * self.dead_below


class FiniteScalarQuantizer(nn.Module):
    """Round each latent dimension to a few levels (FSQ, Mentzer et al. 2023): no codebook, no collapse.

    The code is the mixed-radix number of the rounded coordinates, so ``num_codes = prod(levels)``.
    """

    radix: Tensor
    reach: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if len(levels) == 0 or min(levels) < 2:
            raise InputError(f"FSQ levels must be 2 or more each, got {list(levels)}")
        self.levels = tuple(levels)
        self.num_codes, self.dim = math.prod(levels), len(levels)
        radix = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("radix", radix, persistent=False)
        self.register_buffer("reach", (torch.tensor(levels) - 1) / 2, persistent=False)

    def _round(self, latents: Tensor) -> Tensor:
        """Level indices 0..levels−1, as floats: tanh keeps every latent within the grid."""
        return ((latents.float().tanh() + 1) * self.reach).round()

    def encode(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Tensor:
        """The code of each latent; ``blank`` is ignored, a blank patch finds its own code."""
        return (self._round(latents).long() * self.radix).sum(-1)

    def decode(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """Grid points in [−1, 1] of ``tokens``."""
        digits = tokens[..., None] // self.radix % (2 * self.reach + 1).long()
        return digits / self.reach - 1

    def forward(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Quantized:
        """Quantise with a straight-through gradient through the rounding."""
        tokens = self.encode(latents.detach())
        bounded = latents.tanh()
        rounded = bounded + (self.decode(tokens) - bounded).detach()
        return Quantized(rounded, tokens, latents.new_zeros(()))


class CodeUse(NamedTuple):
    """How much of a codebook a set of tokens uses: share of codes seen, and exp(entropy) of their frequencies."""

    used: float
    perplexity: float


def code_use(tokens: Int[Tensor, "*any"], num_codes: int) -> CodeUse:
    """Codebook use of ``tokens``; ``perplexity`` runs from 1 (one code) to ``num_codes`` (all alike)."""
    counts = torch.bincount(tokens.reshape(-1), minlength=num_codes).double()
    frequencies = counts / counts.sum()
    entropy = -torch.xlogy(frequencies, frequencies).sum()
    return CodeUse(float((counts > 0).double().mean()), float(entropy.exp()))
