"""``vqdiff evaluate``: evaluate a model by a protocol."""

from __future__ import annotations

from pathlib import Path

from vqdiff.cli.options import Changes
from vqdiff.cli.train import print_template
from vqdiff.foundation.config import Precision
from vqdiff.foundation.extras import require


def evaluate(
    config: Path | None = None,
    *,
    set: Changes = (),
    against: Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    template: str | None = None,
) -> None:
    """Generate images from the captions of a split, score them, and write the result as JSON and Markdown.

    Generated images are kept, so an interrupted evaluation resumes where it stopped. Start it with `accelerate launch
    -m vqdiff evaluate …` to divide the work among processes.

    Parameters
    ----------
    config
        A TOML file; --template prints one.
    set
        Change one of its values, e.g. --set sampling.guidance=2. May be repeated.
    against
        An earlier result (.json) to compare with; rejected if it was measured differently.
    device
        auto, cpu or cuda.
    precision
        auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with.
    template
        Print a commented configuration instead: "own", for a model and pictures of your own.
    """
    if config is None or template is not None:
        print_template("evaluation", config, template)
        return
    require("evaluation", "eval")

    from vqdiff.evaluation.evaluate import Evaluation
    from vqdiff.evaluation.evaluate import evaluate as run
    from vqdiff.evaluation.generation import only_main_process
    from vqdiff.foundation.config import read_config

    text = run(read_config(Evaluation, config, set), against, device, precision)
    with only_main_process() as main:
        if main:
            print(text)
