"""Data sets that this project builds for itself, and recipes for training on those of others."""
