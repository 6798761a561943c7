"""Pictures to tokens and back."""

from vqdiff.image_tokenizers.compact import CompactConfig, CompactTokenizer
from vqdiff.image_tokenizers.quantizers import FiniteScalarQuantizer, VectorQuantizer, code_use

__all__ = ["CompactConfig", "CompactTokenizer", "FiniteScalarQuantizer", "VectorQuantizer", "code_use"]
