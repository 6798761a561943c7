"""Adapters for other projects' checkpoints: the only place that knows their key names."""
