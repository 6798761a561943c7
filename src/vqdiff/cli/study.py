"""``vqdiff study``: a grid of settings as a table, a plot and images."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.options import Changes
from vqdiff.cli.train import print_template
from vqdiff.foundation.config import Precision
from vqdiff.foundation.extras import require


def study(
    *configs: Path,
    set: Changes = (),
    template: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure a grid of samplers, steps, guidance scales … and plot the results.

    Measurements are kept, so an interrupted study resumes where it stopped, and studies share cells.

    Parameters
    ----------
    configs
        TOML files; --template prints one.
    set
        Change one of their values, e.g. --set trial.num_pictures=64. May be repeated.
    template
        Print a commented configuration instead: "own", for a model of your own.
    device
        auto, cpu, cuda or mps.
    precision
        auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with.
    """
    if not configs or template is not None:
        print_template("study", configs[0] if configs else None, template)
        return
    require("a study", "eval")

    from vqdiff.evaluation.study import Study, run_study
    from vqdiff.foundation.config import read_config

    for one in [read_config(Study, config, set) for config in configs]:
        run_study(one, device, precision, report=lambda line: print(line, flush=True))
