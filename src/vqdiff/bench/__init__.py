"""Speed and memory, ours beside others', in one run: see docs/performance.md."""
