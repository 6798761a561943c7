"""``vqdiff study``: a grid of settings as a table, a plot and images."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.options import Changes
from vqdiff.foundation.config import Precision
from vqdiff.foundation.extras import require


def study(*configs: Path, set: Changes = (), device: str = "auto", precision: Precision = "auto") -> None:
    """Measure a grid of samplers, steps, guidance scales … and plot the results.

    Measurements are kept, so an interrupted study resumes where it stopped, and studies share cells.

    Parameters
    ----------
    configs
        TOML files, see configs/studies/.
    set
        Change one of their values, e.g. --set trial.num_pictures=64. May be repeated.
    device
        auto, cpu or cuda.
    precision
        auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with.
    """
    require("a study", "eval")

    from vqdiff.evaluation.study import Study, run_study
    from vqdiff.foundation.config import read_config
    from vqdiff.foundation.errors import InputError

    if not configs:
        raise InputError("name at least one study, such as configs/studies/guidance.toml")
    for one in [read_config(Study, config, set) for config in configs]:
        run_study(one, device, precision, report=lambda line: print(line, flush=True))
