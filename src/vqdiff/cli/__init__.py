"""The command line: one module per command, imported only when that command is used."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import cyclopts
from cyclopts import App, CycloptsError, Parameter, Token

from vqdiff import __version__
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.extras import extras_with, installed, message


def _convert(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert as Cyclopts does, but do not round where a whole number is needed."""

    def one(kind: Any, token: str) -> Any:
        if kind is int and "." in token and float(token) % 1:
            raise ValueError(f"{token} is not a whole number")
        return cyclopts.convert(kind, [token])

    return cyclopts.convert(kind, tokens, converter=one)


app = App(
    name="vqdiff",
    help="Generate images from text with discrete diffusion over image tokens.",
    version=__version__,
    help_format="plaintext",  # Markdown would load its parser: a third of the time of --help
    print_error=False,  # main() prints every mistake in the same way
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(converter=_convert),
    result_action="return_value",
)
app.command("vqdiff.cli.generate:generate", help="Generate images from prompts.")
app.command("vqdiff.cli.edit:edit", help="Resample a part of an image.")
app.command("vqdiff.cli.edit:expand", help="Extend an image at its sides.")
app.command("vqdiff.cli.vary:vary", help="Noise an image part of the way and sample from there.")
app.command("vqdiff.cli.vary:revise", help="Resample the least confident tokens of an image.")
app.command("vqdiff.cli.redraw:redraw", help="Make an image again from the record inside it, and compare.")
app.command("vqdiff.cli.convert:convert", help="Convert a model to a model folder or a diffusers folder.")
app.command("vqdiff.cli.push:push", help="Upload a model to the Hugging Face Hub, with a page.")
app.command("vqdiff.cli.export:export", help="Write a model as graphs for ONNX Runtime, OpenVINO or PyTorch.")
app.command("vqdiff.cli.info:info", help="Describe a model, or how an image was made.")
app.command("vqdiff.cli.data:app", name="data", help="Build, check and tokenize sets of images with captions.")
app.command("vqdiff.cli.train:app", name="train", help="Train an image tokenizer, a diffusion model or a scorer.")
app.command("vqdiff.cli.evaluate:evaluate", help="Evaluate a model by a protocol.")
app.command("vqdiff.cli.serve:serve", help="Serve models over HTTP, with a web page.")
app.command("vqdiff.cli.mcp:mcp", help="Serve tools to a program with a language model (MCP).")
app.command("vqdiff.cli.samplers:samplers", help="List samplers, orders of reveal and reveal curves.")
app.command("vqdiff.cli.schema:schema", help="Print commands, settings, samplers and the HTTP API as JSON.")
app.command("vqdiff.cli.bench:app", name="bench", help="Measure speed and memory, compared with diffusers or alone.")
app.command("vqdiff.cli.measure_curve:measure_curve", help="Measure a model for the reveal curve measured.")
app.command("vqdiff.cli.study:study", help="Measure a grid of settings: a table, a plot and images.")
app.register_install_completion_command(help="Install completion of commands and options: bash, zsh or fish.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; invalid input is one line on stderr and exit code 2, Ctrl-C is exit code 130.

    Characters that stdout or stderr cannot encode are replaced. If the reader of a pipe has gone, the command ends
    silently, with the exit code 141 of other programs that a closed pipe ends.
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
            module = (error.name or "vqdiff").partition(".")[0]
            if installed(module):  # and a part of it is missing
                raise
            _stop(message("this command", [module], extras_with(module)))
        except KeyboardInterrupt:
            sys.exit(130)
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # rich prints the help, and has a way of its own to end
                sys.exit(141)
            raise
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _forget_output()
            _stop(f"cannot write: {error.strerror}; free some space")
    except BrokenPipeError:
        if not _forget_output():
            raise  # of another pipe
        sys.exit(141)


def _stop(message: str) -> NoReturn:
    print(f"vqdiff: error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Print one line for what the caller can fix, and Python's usual format for other warnings."""
    fixable = issubclass(category, InputWarning)
    text = f"vqdiff: warning: {message}\n" if fixable else warnings.formatwarning(message, category, filename, lineno)
    print(text, file=sys.stderr, end="")


def _prepare_streams() -> None:
    """Make stdout and stderr accept every character, and replace them if the caller has closed them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _forget_output() -> bool:
    """Discard what stdout and stderr cannot write, or Python would fail again at exit.

    Returns whether there was such a stream.
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
