"""The command line: one module per command, imported only when that command is asked for."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import warnings
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from cyclopts import App, CycloptsError

from vqdiff import __version__
from vqdiff.foundation.errors import InputError, InputWarning

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
    """Run the command line; a caller's mistake is one line on stderr and exit code 2, Ctrl-C exit code 130.

    Characters that stdout or stderr cannot show are replaced. Where the reader of a pipe has gone, the command ends
    without a word, with the exit code 141 of other programs that such a pipe stops (--help: 1, by way of rich).
    """
    try:
        _prepare_streams()
        warnings.showwarning = _show_warning
        try:
            app(arguments)
            sys.stdout.flush()
        except (InputError, CycloptsError) as error:
            _stop(str(error))
        except ModuleNotFoundError as error:
            if (error.name or "vqdiff").startswith("vqdiff"):
                raise
            extras = "pip install 'vqdiff[train,eval]', or 'vqdiff[serve]' to serve"
            _stop(f"this command needs the package {error.name}: {extras}")
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _forget_output()
            _stop(f"cannot write: {error.strerror}; free some space")
    except BrokenPipeError:
        if not _forget_output():
            raise  # another pipe
        sys.exit(141)


def _stop(message: str) -> NoReturn:
    print(f"vqdiff: error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """One line for what the caller can mend, Python's usual ones for all else."""
    mendable = issubclass(category, InputWarning)
    text = f"vqdiff: warning: {message}\n" if mendable else warnings.formatwarning(message, category, filename, lineno)
    print(text, file=sys.stderr, end="")


def _prepare_streams() -> None:
    """Let stdout and stderr take every character, and be there if the caller has closed them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it lasts as long as we do
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _forget_output() -> bool:
    """Send what stdout and stderr cannot get rid of nowhere, or Python would fail once more as it ends.

    Returns whether there is such a stream.
    """
    stuck = [stream for stream in (sys.stdout, sys.stderr) if _is_stuck(stream)]
    for stream in stuck:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(stuck)


def _is_stuck(stream: TextIO) -> bool:
    try:
        stream.flush()
        if not hasattr(select, "poll"):  # Windows
            return False
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except ValueError:  # no file
        return False
    except OSError:
        return True
