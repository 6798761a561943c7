"""Measuring: features, a scorer for drawings, metrics, protocol, studies."""
