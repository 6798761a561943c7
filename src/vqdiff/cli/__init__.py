"""The command line: one module per command, imported only when that command is asked for."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from vqdiff import __version__
from vqdiff.errors import InputError

app = App(
    name="vqdiff",
    help="Draw pictures from text with discrete diffusion over image tokens.",
    version=__version__,
    help_format="plaintext",  # Markdown would load its parser: a third of the time of --help
    print_error=False,  # main() prints every mistake in the same way
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command("vqdiff.cli.generate:generate", help="Draw pictures from prompts.")
app.command("vqdiff.cli.edit:edit", help="Draw a part of a picture anew.")
app.command("vqdiff.cli.edit:expand", help="Draw around a picture.")
app.command("vqdiff.cli.vary:vary", help="Noise a picture part of the way and draw it from there.")
app.command("vqdiff.cli.vary:revise", help="Draw anew what the model is least sure of.")
app.command("vqdiff.cli.convert:convert", help="Make a model folder of another project's model, or a diffusers folder.")
app.command("vqdiff.cli.info:info", help="Say what a model is: parts and their origin, sizes, licences, quality.")
app.command("vqdiff.cli.data:app", name="data", help="Build and check sets of pictures with captions.")
app.command("vqdiff.cli.train:app", name="train", help="Train an image tokenizer, a diffusion model or a scorer.")
app.command("vqdiff.cli.evaluate:evaluate", help="Measure a model by a protocol.")
app.command("vqdiff.cli.serve:serve", help="Draw for others: an HTTP server.")
app.command("vqdiff.cli.bench:app", name="bench", help="Measure speed and memory, beside diffusers or alone.")
app.command("vqdiff.cli.study:study", help="Measure a grid of settings: a table, a plot and pictures.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a caller's mistake is one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        app(arguments)
    except (InputError, CycloptsError) as error:
        print(f"vqdiff: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "vqdiff").startswith("vqdiff"):
            raise
        extras = "pip install 'vqdiff[train,eval]', or 'vqdiff[serve]' to serve"
        print(f"vqdiff: error: this command needs the package {error.name}: {extras}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
