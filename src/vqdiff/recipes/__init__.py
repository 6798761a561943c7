"""Data sets that this project builds for itself."""
