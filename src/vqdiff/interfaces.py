"""What the parts of a model promise each other: the contracts to implement for a part of one's own.

B images, L tokens, K codes, H × W pixels, N text positions, C text features, D latent dimensions. ``docs/extending.md``
has a worked example of each; `vqdiff.plugins` is where they are registered. Samplers derive from
`vqdiff.sampling.Sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, overload, runtime_checkable

import torch
from torch import Tensor, nn

from vqdiff.foundation.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from vqdiff.data.sources import Source

__all__ = [
    "Component",
    "Configuration",
    "DataSource",
    "Denoiser",
    "ImageConfiguration",
    "ImageTokenizer",
    "Network",
    "PreparedCondition",
    "Quantized",
    "Quantizer",
    "Reconstruction",
    "TextEncoder",
    "TrainableTokenizer",
]


Own = TypeVar("Own")
"""As `typing.Self`, which the checks of single methods in the tests do not know."""


@runtime_checkable
class Network(Protocol):
    """What is required of every network; a `torch.nn.Module` has it all."""

    def to(self: Own, device: torch.device | str, dtype: torch.dtype | None = None) -> Own: ...

    def requires_grad_(self: Own, requires_grad: bool = True) -> Own: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def state_dict(self) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Configuration(Protocol):
    """A dataclass whose fields have values that JSON knows."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@runtime_checkable
class ImageConfiguration(Configuration, Protocol):
    """The configuration of an image tokenizer."""

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        ...


@runtime_checkable
class Component(Network, Protocol):
    """A network that is saved with its configuration, in a folder of its own."""

    @property
    def config(self) -> Configuration:
        """What its class is called with to make it."""
        ...


@runtime_checkable
class PreparedCondition(Protocol):
    """What a denoiser has computed of the conditions of a batch, once for all steps."""

    def select(self: Own, rows: Sequence[int]) -> Own:
        """Return what belongs to the images with these numbers, in this order."""
        ...

    def join(self: Own, *others: Own) -> Own:
        """Return what belongs to these images and then to those of ``others``, of the same denoiser."""
        ...

    def one(self: Own, row: int) -> Own:
        """Return what belongs to a single image."""
        ...


@runtime_checkable
class Denoiser(Component, Protocol):
    """A network that predicts x0 from x_t; a `torch.nn.Module`.

    Calling it is ``logits(features(tokens, t, condition))``. Its class has an attribute ``Config``, the class of its
    ``config``, which has a field ``num_classes`` for labels. A true attribute
    ``batch_invariant`` promises that an image's logits are the same, bit for bit, in any batch; without it, one image
    at a time is computed on a CPU. A true attribute ``takes_token_weights`` says that text features may have a column
    more, C + 1 in all: the weight of each token, from a prompt as ``(red:1.4) apple``; without it, such prompts are
    errors. A method ``skipping_layers()`` returns the same network without some of its layers, which takes the same
    prepared conditions; without it, or if it returns None, the guide ``skipped-layers`` is an error.
    """

    def __call__(self, tokens: Int[Tensor, "B L"], t: Int[Tensor, "B"], condition: Any) -> Float[Tensor, "B L K"]:
        """Predict the clean tokens: logits for codes 0..K-1. tokens: 0..K, K = MASK. t: 1..T.

        condition: text features (B, N, C), labels (B,), None, or what `prepare` made of one of these.
        """
        ...

    @overload
    def prepare(self, condition: Tensor) -> PreparedCondition: ...
    @overload
    def prepare(self, condition: None) -> PreparedCondition | None: ...
    def prepare(self, condition: Tensor | None) -> PreparedCondition | None:
        """Compute what does not change between steps."""
        ...

    def features(self, tokens: Int[Tensor, "B L"], t: Int[Tensor, "B"], condition: Any) -> Float[Tensor, "B L E"]:
        """Compute the features of every position, from which the head predicts."""
        ...

    def logits(self, features: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows K"]:
        """Apply the head to the features of some positions."""
        ...


@runtime_checkable
class ImageTokenizer(Component, Protocol):
    """A network that turns images into tokens and back; a `torch.nn.Module`.

    Its class has an attribute ``Config``, as that of a `Denoiser`.
    """

    @property
    def config(self) -> ImageConfiguration:
        """What its class is called with to make it."""
        ...

    num_codes: int
    """K."""
    grid_size: int
    """Tokens of a side; L is its square, row by row."""

    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B L"]:
        """The tokens, 0..K-1, of images of the configured size, values in [0, 1]."""
        ...

    def decode(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B 3 H W"]:
        """The images of tokens, values in [0, 1]."""
        ...


@runtime_checkable
class TrainableTokenizer(ImageTokenizer, Protocol):
    """An image tokenizer that can be trained by ``vqdiff train tokenizer``."""

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """Encode and decode images, with gradients."""
        ...

    @property
    def last_layer(self) -> Tensor:
        """The weight nearest to the decoded pixels."""
        ...


class Quantized(NamedTuple):
    """What a quantizer returns in training: latents for the decoder, their codes, and the loss to add."""

    latents: Float[Tensor, "*batch D"]
    tokens: Int[Tensor, "*batch"]
    loss: Float[Tensor, ""]


class Reconstruction(NamedTuple):
    """A training pass of an image tokenizer: decoded pixels, not clamped; their tokens; the quantizer's loss."""

    pixels: Float[Tensor, "B 3 H W"]
    tokens: Int[Tensor, "B L"]
    loss: Float[Tensor, ""]


@runtime_checkable
class Quantizer(Network, Protocol):
    """Latent vectors to codes and back, inside a `CompactTokenizer`; a `torch.nn.Module`.

    What is registered is a function that makes one from the tokenizer's configuration (`CompactConfig`).
    """

    num_codes: int
    """K."""
    dim: int
    """D."""

    def encode(
        self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None
    ) -> Int[Tensor, "*batch"]:
        """The code of each latent. blank: positions whose patch is plain white; may be ignored."""
        ...

    def decode(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """The latents that codes stand for."""
        ...

    def __call__(self, latents: Float[Tensor, "*batch D"], blank: Bool[Tensor, "*batch"] | None = None) -> Quantized:
        """Quantise with a straight-through gradient."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen encoder of prompts."""

    max_tokens: int
    """N."""
    width: int
    """C."""

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the network to ``device``."""
        ...

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError for the first text that it does not take."""
        ...

    def remarks(self, texts: Sequence[str]) -> list[str]:
        """A line for each text of which it knows no word."""
        ...

    def fit(self, text: str) -> str:
        """As much of ``text`` as there is room for."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B N C"]:
        """The features of texts, zero where there is padding."""
        ...

    def token_weights(self, text: str, weights: Sequence[float]) -> Float[Tensor, "N"]:
        """The weight of each token of a text: that of its characters, 1 for special tokens and padding."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is needed to read it again."""
        ...


@runtime_checkable
class DataSource(Protocol):
    """A kind of data set."""

    def __call__(self, data: str) -> Mapping[str, Callable[[], Source]] | None:
        """The splits by name, each with a function that opens it as a `vqdiff.data.sources.Source`.

        data: as in a configuration, such as ``sqlite:images.db``. Returns None for what another kind of set reads.
        """
        ...
