"""Evaluation: scorers for drawings, metrics, protocol, studies."""
