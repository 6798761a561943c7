"""Quantizers from latent vectors to codes and back: a codebook learned by EMA, and FSQ, whose grid is fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.image_tokenizers.distributed import all_sum, gathered
from vqdiff.interfaces import Quantized
from vqdiff.plugins import QUANTIZERS

FORMER_NAMES = {"usage": "cluster_size", "sums": "embed_avg"}
"""Buffers of `VectorQuantizer` in files of earlier versions; the bundled models have them."""


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of any network with the ``FORMER_NAMES`` in it replaced; `VectorQuantizer` loads either.

    For code that reads a state dict by name without loading it.
    """
    former = {
        prefix + old: prefix + new
        for prefix in (name.removesuffix("codebook") for name in state if name.endswith("codebook"))
        for old, new in FORMER_NAMES.items()
    }
    return {former.get(name, name): value for name, value in state.items()}


class VectorQuantizer(nn.Module):
    """Nearest-neighbour codebook learned by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    For the first ``free_steps`` training passes, latents are not quantised; then the codes are placed on latents
    of the batch. A code whose ``cluster_size`` falls below ``threshold_ema_dead_code`` latents per batch is moved
    to a latent with a large quantisation error, drawn with probability ∝ its squared error. Processes that train
    together (``torch.distributed``) share one codebook, learned from all their latents. With ``reserve_blank``, code 0
    is used at the positions that the caller marks as blank, and nowhere else.

    Shapes: latents ``(*batch, D)``, tokens ``(*batch)`` with values 0..num_codes−1. Buffers, with the usual names:
    ``codebook`` e ``(num_codes, D)``, which is ``embed_avg`` m ``(num_codes, D)`` over ``cluster_size`` N
    ``(num_codes,)``. (Not ``embed``: that is (D, num_codes) in some implementations and (num_codes, D) in others.)
    """

    codebook: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    passes: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        decay: float = 0.98,
        commitment: float = 0.25,
        threshold_ema_dead_code: float = 0.2,
        free_steps: int = 100,
        reserve_blank: bool = False,
    ) -> None:
        super().__init__()
        self.num_codes, self.dim = num_codes, dim
        self.decay, self.commitment, self.free_steps = decay, commitment, free_steps
        self.threshold_ema_dead_code, self.reserve_blank = threshold_ema_dead_code, reserve_blank
        self.register_buffer("codebook", torch.randn(num_codes, dim) / dim**0.5)
        # Training state, also saved, so that training can continue from any saved model.
        self.register_buffer("cluster_size", torch.zeros(num_codes))
        self.register_buffer("embed_avg", torch.zeros(num_codes, dim))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def encode(
        self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None
    ) -> Int[Tensor, "*batch"]:
        """The nearest codes; if code 0 is reserved, it is used exactly where ``blank``."""
        flat = latents.reshape(-1, self.dim).float()
        first = int(self.reserve_blank)
        codes = self.codebook[first:]
        # argmin |z − e|² = argmax z·e − |e|²/2
        tokens = torch.addmm(-0.5 * codes.square().sum(1), flat, codes.t()).argmax(1) + first
        if self.reserve_blank and blank is not None:
            tokens = tokens.masked_fill(blank.reshape(-1), 0)
        return tokens.view(latents.shape[:-1])

    def decode(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """The codebook vectors of ``tokens``."""
        return F.embedding(tokens, self.codebook)

    def forward(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Quantized:
        """Quantise with a straight-through gradient; in training mode, also update the codebook."""
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

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object, **kwargs: object
    ) -> None:
        for old, new in FORMER_NAMES.items():
            if (value := state_dict.pop(prefix + old, None)) is not None:
                state_dict[prefix + new] = value.to(getattr(self, new).dtype)  # it may be assigned, not copied
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def _follow(self, flat: Tensor, tokens: Tensor, codes: Tensor) -> None:
        """Move each code to the running mean of its latents, and dead codes to new latents."""
        # Counts and sums in one tensor, so that one message sends both to the other processes.
        counted = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
        totals = all_sum(flat.new_zeros(self.num_codes, self.dim + 1).index_add_(0, tokens, counted))
        self.cluster_size.lerp_(totals[:, -1], 1 - self.decay)
        self.embed_avg.lerp_(totals[:, :-1], 1 - self.decay)
        self.codebook.copy_(self.embed_avg / self.cluster_size.clamp_min(1e-5)[:, None])
        dead = self.cluster_size < self.threshold_ema_dead_code
        if self.reserve_blank:
            dead[0] = False
        if dead.any():
            errors = (flat - codes).square().sum(1)
            if self.reserve_blank:
                errors = errors.masked_fill(tokens == 0, 0)
            self._place(gathered(flat), dead.nonzero().squeeze(1), gathered(errors))

    @torch.no_grad()
    def _place(self, flat: Tensor, codes: Tensor, weights: Tensor) -> None:
        """Put ``codes`` on latents drawn ∝ ``weights``, with a large enough count that they do not die at once.

        The draw is a function of the pass, so that all processes, and a resumed run, place codes in the same way.
        """
        generator = torch.Generator().manual_seed(int(self.passes))
        # Without replacement: the first arrivals at rates ∝ weights (Efraimidis, Spirakis 2006).
        clocks = torch.empty(len(weights)).exponential_(generator=generator).to(weights.device)
        order = (clocks / (weights + 1e-12)).argsort()
        rows = order[torch.arange(len(codes), device=order.device) % len(order)]
        self.codebook[codes] = flat[rows]
        self.cluster_size[codes] = 5 * self.threshold_ema_dead_code
        self.embed_avg[codes] = flat[rows] * 5 * self.threshold_ema_dead_code


class FiniteScalarQuantizer(nn.Module):
    """Round each latent dimension to a few levels (FSQ, Mentzer et al. 2023): there is no codebook that could collapse.

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
        """Level indices 0..levels−1, as floats: tanh keeps every latent inside the grid."""
        return ((latents.float().tanh() + 1) * self.reach).round()

    def encode(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Tensor:
        """The code of each latent; ``blank`` is ignored, since a blank patch gets a code by itself."""
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
    """How much of a codebook a set of tokens uses: the share of codes used, and exp(entropy) of their frequencies."""

    used: float
    perplexity: float


def code_use(tokens: Int[Tensor, "*any"], num_codes: int) -> CodeUse:
    """Codebook use of ``tokens``; ``perplexity`` ranges from 1 (one code) to ``num_codes`` (all equally often)."""
    counts = torch.bincount(tokens.reshape(-1), minlength=num_codes).double()
    frequencies = counts / counts.sum()
    entropy = -torch.xlogy(frequencies, frequencies).sum()
    return CodeUse(float((counts > 0).double().mean()), float(entropy.exp()))


QUANTIZERS.register(
    "vq",
    lambda config: VectorQuantizer(config.num_codes, config.code_dim, reserve_blank=config.blank_code),
    "a codebook learned by exponential moving averages",
)
QUANTIZERS.register(
    "fsq",
    lambda config: FiniteScalarQuantizer(config.fsq_levels),
    "finite scalar quantization: each dimension is rounded to a few levels",
)
