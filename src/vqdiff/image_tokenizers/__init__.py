"""Image tokenizers: images to tokens and back."""

from vqdiff.image_tokenizers.absent import AbsentConfig, AbsentTokenizer
from vqdiff.image_tokenizers.compact import CompactConfig, CompactTokenizer
from vqdiff.image_tokenizers.quantizers import FiniteScalarQuantizer, VectorQuantizer, code_use
from vqdiff.image_tokenizers.vqgan import VQGAN, VQGANConfig
from vqdiff.interfaces import Reconstruction

__all__ = [
    "VQGAN",
    "AbsentConfig",
    "AbsentTokenizer",
    "CompactConfig",
    "CompactTokenizer",
    "FiniteScalarQuantizer",
    "Reconstruction",
    "VQGANConfig",
    "VectorQuantizer",
    "code_use",
]
