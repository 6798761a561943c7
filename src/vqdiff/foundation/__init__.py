"""What everything else stands on: errors, configuration, files, images, progress, threads, the processor."""
