"""The noise schedule and the forward process: q(x_t | x_0) and q(x_t | x_s) of mask-and-replace diffusion.

A token is kept, replaced by a code drawn uniformly from all K, or masked for good (arXiv 2111.14822, Eq. 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int

__all__ = ["Coefficients", "Schedule", "draw_forward", "q_sample"]


class Coefficients(NamedTuple):
    """A transition: float64 probabilities, one per requested time, with alpha + K·beta + gamma = 1.

    A code becomes the code j with probability alpha·[it is j] + beta, and MASK with probability gamma; MASK stays MASK.
    """

    alpha: Float[Tensor, "*times"]
    beta: Float[Tensor, "*times"]
    gamma: Float[Tensor, "*times"]


@dataclass(frozen=True)
class Schedule:
    """How strongly tokens are noised at each time t = 0 (clean) .. num_steps = T (all noise).

    From t = 1 to t = T, `alpha_bar` (kept) and `gamma_bar` (masked) run linearly between their two ends; the rest up
    to 1 is shared by the K codes. An immutable value: equal schedules compare equal and can be dictionary keys.

    Raises InputError for ends that are not probabilities, or that would make the noise decrease with time.
    """

    num_steps: int
    num_codes: int
    alpha_bar_ends: tuple[float, float]
    gamma_bar_ends: tuple[float, float]

    def __post_init__(self) -> None:
        (a1, aT), (c1, cT), (r1, rT) = self.alpha_bar_ends, self.gamma_bar_ends, self.replaced_ends
        if self.num_steps < 1 or self.num_codes < 1:
            raise InputError(f"a schedule needs at least 1 step and 1 code, not {self.num_steps} and {self.num_codes}")
        if not (0 <= aT <= a1 and 0 <= c1 <= cT and min(r1, rT) >= 0):
            raise InputError(
                f"alpha_bar {self.alpha_bar_ends} must not rise, gamma_bar {self.gamma_bar_ends} must not fall, "
                "neither may be negative, and their sum must not exceed 1"
            )
        if self.num_steps > 1 and a1 == 0:
            raise InputError(f"alpha_bar {self.alpha_bar_ends} must be above 0 at t = 1, or nothing is left to noise")
        if r1 * aT > rT * a1 * (1 + 1e-9):  # the share of replaced tokens among the visible, r / (a + r), must not fall
            raise InputError(
                f"with alpha_bar {self.alpha_bar_ends} and gamma_bar {self.gamma_bar_ends} replaced tokens would "
                "change back to their original codes: let alpha_bar fall faster, or gamma_bar rise less"
            )

    @classmethod
    def linear(
        cls,
        num_steps: int,
        num_codes: int,
        alpha_bar: tuple[float, float] = (0.99999, 9e-6),
        gamma_bar: tuple[float, float] = (9e-6, 0.99999),
    ) -> Schedule:
        """Make the schedule with these values at t = 1 and t = T (at t = T only, if T = 1)."""
        (a1, aT), (c1, cT) = alpha_bar, gamma_bar
        return cls(num_steps, num_codes, (a1, aT), (c1, cT))

    @classmethod
    def published(cls, num_steps: int, num_codes: int) -> Schedule:
        """Make the schedule of the published code and checkpoints: almost only masks, K·beta_bar = 1e-6."""
        return cls.linear(num_steps, num_codes)

    @classmethod
    def paper(cls, num_steps: int, num_codes: int) -> Schedule:
        """Make the schedule that arXiv 2111.14822 describes: K·beta_bar rises to 0.1 and gamma_bar to 0.9."""
        return cls.linear(num_steps, num_codes, alpha_bar=(0.99999, 0.0), gamma_bar=(9e-6, 0.9))

    @classmethod
    def mask_only(cls, num_steps: int, num_codes: int) -> Schedule:
        """Make the absorbing schedule: t/T of the tokens are masked, none is replaced."""
        return cls.linear(num_steps, num_codes, (1 - 1 / num_steps, 0.0), (1 / num_steps, 1.0))

    @classmethod
    def uniform_only(cls, num_steps: int, num_codes: int) -> Schedule:
        """Make the multinomial schedule: t/T of the tokens are replaced, none is masked."""
        return cls.linear(num_steps, num_codes, (1 - 1 / num_steps, 0.0), (0.0, 0.0))

    def to_config(self) -> dict[str, Any]:
        """Return the arguments of `linear`, in a form that JSON can store."""
        return {
            "num_steps": self.num_steps,
            "num_codes": self.num_codes,
            "alpha_bar": list(self.alpha_bar_ends),
            "gamma_bar": list(self.gamma_bar_ends),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """Make the schedule that `to_config` described. Raises InputError if it is not such a description."""
        try:
            ends: dict[str, Any] = {name: tuple(config[name]) for name in ("alpha_bar", "gamma_bar")}
            return cls.linear(**{**config, **ends})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{dict(config)} does not describe a schedule: {error}") from None

    @property
    def alpha_bar(self) -> Float[Tensor, "times"]:
        """Probability that a token was kept by time t = 0..T; float64, on the CPU."""
        return _table(self, torch.device("cpu"))[0]

    @property
    def beta_bar(self) -> Float[Tensor, "times"]:
        """Probability that it was replaced by a given one of the K codes."""
        return _table(self, torch.device("cpu"))[1]

    @property
    def gamma_bar(self) -> Float[Tensor, "times"]:
        """Probability that it was masked."""
        return _table(self, torch.device("cpu"))[2]

    def marginal(self, t: Int[Tensor, "*times"]) -> Coefficients:
        """Look up q(x_t | x_0), the cumulative kernel; t in 0..T, on any device."""
        return Coefficients(*_table(self, t.device)[:, t])

    def kernel(self, s: Int[Tensor, "*times"], t: Int[Tensor, "*times"]) -> Coefficients:
        """Return q(x_t | x_s) for 0 <= s <= t <= T, s < T: any stride, s = t - 1 for the one-step kernel."""
        alpha_bar_s, beta_bar_s, gamma_bar_s = self.marginal(s)
        alpha_bar_t, beta_bar_t, gamma_bar_t = self.marginal(t)
        visible = alpha_bar_s + self.num_codes * beta_bar_s  # 1 - gamma_bar_s without the cancellation
        # Likewise beta = (1 - alpha - gamma) / K: this form is exactly 0 where nothing is replaced.
        beta = (alpha_bar_s * beta_bar_t - alpha_bar_t * beta_bar_s) / (alpha_bar_s * visible)
        return Coefficients(alpha_bar_t / alpha_bar_s, beta.clamp(min=0), (gamma_bar_t - gamma_bar_s) / visible)

    @property
    def replaced_ends(self) -> tuple[float, float]:
        """K·beta_bar at t = 1 and t = T: the share of replaced tokens."""
        # Rounded, since 1 - 0.99999 - 9e-6 means 1e-6, and a schedule of masks alone must replace exactly nothing.
        first, last = (round(1 - a - c, 15) for a, c in zip(self.alpha_bar_ends, self.gamma_bar_ends, strict=True))
        return first, last

    @property
    def replaces(self) -> bool:
        """Whether more than one token in a hundred is replaced at T, so that a visible token may well be wrong."""
        return self.replaced_ends[1] > 0.01


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensors must be usable in training too
def _table(schedule: Schedule, device: torch.device) -> Float[Tensor, "3 times"]:
    """Tabulate alpha_bar, beta_bar and gamma_bar once per device: copying at every use would make the host wait."""
    ends = [schedule.alpha_bar_ends, schedule.replaced_ends, schedule.gamma_bar_ends]
    first, last = torch.tensor(ends, dtype=torch.float64, device="cpu").T[..., None]
    noised = torch.linspace(1, 0, schedule.num_steps, dtype=torch.float64, device="cpu").flip(0)  # [1] if T = 1
    clean = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64, device="cpu")
    table = torch.cat([clean, torch.lerp(first, last, noised)], dim=1)
    table[1] /= schedule.num_codes
    return table.to(device)


def q_sample(
    schedule: Schedule, x0: Int[Tensor, "B L"], t: Int[Tensor, "B"], generator: torch.Generator | None = None
) -> Int[Tensor, "B L"]:
    """Draw x_t from q(x_t | x_0): noise clean tokens.

    x0: codes 0..K-1. t: 0..T, one per image. Returns codes, and K where masked.
    """
    u = torch.rand(x0.shape, generator=generator, dtype=torch.float64, device=x0.device)
    return draw_forward(schedule, x0, t, u)


def draw_forward(
    schedule: Schedule, x0: Int[Tensor, "B L"], t: Int[Tensor, "B"], u: Float[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """Sample as `q_sample` does, as a pure function of uniforms in [0, 1), preferably float64."""
    _, beta_bar, gamma_bar = (c[:, None] for c in schedule.marginal(t))
    code = ((u - gamma_bar) / beta_bar).long().clamp(0, schedule.num_codes - 1)  # uniform where it is used below
    xt = torch.where(u < gamma_bar + schedule.num_codes * beta_bar, code, x0)
    return torch.where(u < gamma_bar, schedule.num_codes, xt)
