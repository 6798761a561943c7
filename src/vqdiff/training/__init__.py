"""Training loops of both stages."""
