"""Plot the logs of runs, one panel per quantity: python docs/figures/plot_log.py curves.png runs/one runs/other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

PANELS = {
    "Loss": ("loss",),
    "Held out, masked tokens (nats)": ("held_out_masked_nll", "held_out_masked_nll_null"),
    "Reconstruction (dB)": ("psnr",),
    "Perplexity of the codes": ("perplexity",),
}


def plot_logs(runs: list[Path], output: Path) -> None:
    """Plot every quantity that any of the ``runs`` has logged."""
    logs = {run.name: [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs}
    known = {key for log in logs.values() for record in log for key in record}
    panels = {title: keys for title, keys in PANELS.items() if known & set(keys)}
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (title, keys) in zip(axes[0], panels.items(), strict=True):
        for number, (name, log) in enumerate(logs.items()):
            for key, style in zip(keys, ("-", "--"), strict=False):
                if curve := [(record["step"], record[key]) for record in log if key in record]:
                    label = f"{name}, without caption" if key.endswith("_null") else name
                    axis.plot(*zip(*curve, strict=True), style, color=f"C{number}", label=label)
        axis.set(title=title, xlabel="step")
        axis.legend()
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    plot_logs([Path(run) for run in sys.argv[2:]], Path(sys.argv[1]))
