"""``vqdiff train``: the two stages, fine-tuning for guidance, and the scorers."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from vqdiff.cli.options import Changes
from vqdiff.foundation.extras import TRAINING, require

app = App(name="train", help="Train an image tokenizer, a diffusion model, or a scorer.")


@app.command
def tokenizer(config: Path, *, set: Changes = (), resume: bool = False, sanity: bool = False) -> None:
    """Train an image tokenizer.

    Parameters
    ----------
    config
        A TOML file, see configs/.
    set
        Change one of its values, e.g. --set run.steps=100. May be repeated.
    resume
        Resume from the last checkpoint.
    sanity
        Write nothing; only check whether a single batch can be learnt.
    """
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.tokenizer import TokenizerTraining, train_tokenizer

    train_tokenizer(read_config(TokenizerTraining, config, set), resume=resume, sanity=sanity)


@app.command
def diffusion(config: Path, *, set: Changes = (), resume: bool = False, sanity: bool = False) -> None:
    """Train a denoiser and its null condition on a trained image tokenizer.

    Parameters
    ----------
    config
        A TOML file, see configs/.
    set
        Change one of its values, e.g. --set run.steps=100. May be repeated.
    resume
        Resume from the last checkpoint.
    sanity
        Write nothing; only check whether a single batch can be learnt.
    """
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.diffusion import DiffusionTraining, train_diffusion

    train_diffusion(read_config(DiffusionTraining, config, set), resume=resume, sanity=sanity)


@app.command
def guidance(config: Path, *, set: Changes = (), resume: bool = False, sanity: bool = False) -> None:
    """Give a trained model a null condition, so that it can be guided.

    Parameters
    ----------
    config
        A TOML file, see configs/.
    set
        Change one of its values, e.g. --set start=my-model. May be repeated.
    resume
        Resume from the last checkpoint.
    sanity
        Write nothing; only check whether a single batch can be learnt.
    """
    require("training", "train", *TRAINING)

    from vqdiff.foundation.config import read_config
    from vqdiff.training.diffusion import GuidanceTraining, train_diffusion

    train_diffusion(read_config(GuidanceTraining, config, set), resume=resume, sanity=sanity)


@app.command
def scorer(config: Path, *, set: Changes = ()) -> None:
    """Train the scorers that evaluate generated drawings; needs the extra ``eval``.

    Parameters
    ----------
    config
        A TOML file, see configs/.
    set
        Change one of its values, e.g. --set epochs=10. May be repeated.
    """
    require("training a scorer", "eval")

    from vqdiff.evaluation.scorer_training import ScorerTraining, train_scorers
    from vqdiff.foundation.config import read_config

    train_scorers(read_config(ScorerTraining, config, set))
