"""Foundations of the other packages: errors, configuration, files, images, progress, threads, the processor."""
