"""A model for the benches, with random weights, that is worked out in no time."""

from vqdiff.checkpoints.presets import Architecture
from vqdiff.denoisers import ClassicConfig
from vqdiff.image_tokenizers import VQGANConfig

TINY = Architecture(
    ClassicConfig(30, grid_size=4, width=32, depth=2, heads=2, text_width=64, position_rows=4, position_columns=4),
    VQGANConfig(8, 32, (1, 2), 1, (1,), 8, 6, codebook_size=30, num_codes=30),
    learned_null=True,
)
