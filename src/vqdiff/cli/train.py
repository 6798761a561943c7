"""``vqdiff train``: the two stages, fine-tuning for guidance, and the scorers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, Parameter

from vqdiff.cli.options import Changes
from vqdiff.foundation.extras import TRAINING, require

if TYPE_CHECKING:
    from vqdiff.recipes.training import Stage

app = App(name="train", help="Train an image tokenizer, a diffusion model, or a scorer.")


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """What is changed in the configuration, and how the run starts."""

    set: Changes = ()
    """Change one of its values, e.g. --set run.steps=100. May be repeated."""
    resume: bool = False
    """Resume from the last checkpoint."""
    sanity: bool = False
    """Write nothing; only check whether a single batch can be learned."""


@app.command
def tokenizer(
    config: Path | None = None,
    *,
    run: RunOptions = RunOptions(),
    template: str | None = None,
) -> None:
    """Train an image tokenizer.

    Parameters
    ----------
    config
        A TOML file; --template prints one.
    template
        Print a commented configuration instead: "own", for pictures of your own.
    """
    if config is None or template is not None:
        print_template("tokenizer", config, template)
        return
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.tokenizer import TokenizerTraining, train_tokenizer

    train_tokenizer(read_config(TokenizerTraining, config, run.set), resume=run.resume, sanity=run.sanity)


@app.command
def diffusion(
    config: Path | None = None,
    *,
    run: RunOptions = RunOptions(),
    template: str | None = None,
) -> None:
    """Train a denoiser and its null condition on a trained image tokenizer.

    Parameters
    ----------
    config
        A TOML file; --template prints one.
    template
        Print a commented configuration instead: "own" for pictures of your own, and others by size.
    """
    if config is None or template is not None:
        print_template("diffusion", config, template)
        return
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.denoiser_settings import DiffusionTraining
    from vqdiff.training.diffusion import train_diffusion

    train_diffusion(read_config(DiffusionTraining, config, run.set), resume=run.resume, sanity=run.sanity)


@app.command
def guidance(config: Path | None = None, *, template: str | None = None, run: RunOptions = RunOptions()) -> None:
    """Give a trained model a null condition, so that it can be guided.

    Parameters
    ----------
    config
        A TOML file; --template prints one.
    template
        Print a commented configuration instead: "own", for a model of your own.
    """
    if config is None or template is not None:
        print_template("guidance", config, template)
        return
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.denoiser_settings import GuidanceTraining
    from vqdiff.training.diffusion import train_diffusion

    train_diffusion(read_config(GuidanceTraining, config, run.set), resume=run.resume, sanity=run.sanity)


@app.command
def scorer(config: Path | None = None, *, set: Changes = (), template: str | None = None) -> None:
    """Train the scorers that evaluate generated drawings; needs the extra eval.

    Parameters
    ----------
    config
        A TOML file; --template prints one.
    set
        Change one of its values, e.g. --set epochs=10. May be repeated.
    template
        Print a commented configuration instead: "own", for pictures of your own.
    """
    if config is None or template is not None:
        print_template("scorer", config, template)
        return
    require("training a scorer", "eval")

    from vqdiff.evaluation.scorer_training import ScorerTraining, train_scorers
    from vqdiff.foundation.config import read_config

    train_scorers(read_config(ScorerTraining, config, set))


def print_template(stage: Stage, config: Path | None, template: str | None) -> None:
    """Print a configuration; InputError unless exactly one of the two arguments is given."""
    from vqdiff.foundation.errors import InputError
    from vqdiff.recipes.training import names, path_of

    if template is None:
        raise InputError(f"name a configuration, or print one with --template ({', '.join(names(stage))})")
    if config is not None:
        raise InputError(f"--template prints a configuration, {config} is one to use: leave out one of them")
    print(path_of(stage, template).read_text("utf-8"), end="")
