"""A placeholder for an image tokenizer that is in another file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.plugins import IMAGE_TOKENIZERS


@dataclass(frozen=True)
class AbsentConfig:
    """What is known about the missing tokenizer: its tokens, and the file it is in."""

    grid_size: int
    num_codes: int
    file: str

    @property
    def image_size(self) -> NoReturn:
        """Raise InputError."""
        raise self.missing()

    def missing(self) -> InputError:
        """The error for a request for pixels."""
        return InputError(
            f"this model came without its image tokenizer, so it has tokens but no pixels: load it with {self.file}"
        )


@IMAGE_TOKENIZERS.add
class AbsentTokenizer(nn.Module):
    """The image tokenizer of a model loaded without one: its methods raise an error that names the missing file."""

    Config = AbsentConfig

    def __init__(self, config: AbsentConfig) -> None:
        super().__init__()
        self.config = config
        self.grid_size, self.num_codes = config.grid_size, config.num_codes

    def encode(self, pixels: Tensor) -> NoReturn:
        """Raise InputError."""
        raise self.config.missing()

    def decode(self, tokens: Tensor) -> NoReturn:
        """Raise InputError."""
        raise self.config.missing()
