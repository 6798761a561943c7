"""``vqdiff schema``: commands, settings, samplers and the HTTP API as JSON, for programs that use vqdiff."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument

Part = Literal["commands", "settings", "samplers", "api"]


def schema(part: Part | None = None) -> None:
    """Print a description of vqdiff as JSON: commands, settings, samplers, and the HTTP API as OpenAPI.

    Parameters
    ----------
    part
        The part to print alone: commands, settings, samplers or api. The last one needs vqdiff[serve].
    """
    import json

    from vqdiff import __version__

    parts: dict[str, Callable[[], Any]] = {
        "commands": commands, "settings": settings, "samplers": _samplers, "api": _api,
    }  # fmt: skip
    if part is not None:
        print(json.dumps(parts[part](), default=str))
        return
    print(json.dumps({"version": __version__} | {name: made() for name, made in parts.items()}, default=str))


def commands() -> list[dict[str, Any]]:
    """Return each command's name, help and options."""
    from vqdiff.cli import app

    return [
        {"name": name, "help": one.help.partition("\n")[0], "options": [_option(given) for given in _arguments(one)]}
        for name, one in _apps(app)
    ]


def settings() -> dict[str, Any]:
    """Return the sampling settings: meaning, type, default and bounds."""
    from vqdiff.foundation.options import Choice, Number, options_of
    from vqdiff.settings import SamplingSettings

    found, defaults = dict[str, Any](), SamplingSettings()
    for name, one in options_of(SamplingSettings).items():
        found[name] = {"help": one.help, "default": getattr(defaults, name)} | _type(one.type)
        if isinstance(one, Number):
            bounds = {"minimum": one.least, "exclusiveMinimum": one.above, "maximum": one.most, "off": one.off}
            found[name] |= {key: bound for key, bound in bounds.items() if math.isfinite(bound)}
        if isinstance(one, Choice):
            found[name]["enum"] = list(one.names())
    return found


def _samplers() -> dict[str, str]:
    from vqdiff.sampling import samplers

    return samplers()


def _api() -> dict[str, Any]:
    from vqdiff.foundation.extras import require

    require("the API", "serve", "fastapi", "fastapi_offline", "prometheus_client", "python_multipart")

    from vqdiff.serving.api import create_app
    from vqdiff.serving.engine import Engine

    engine = Engine()
    try:
        return create_app({}, engine).openapi()
    finally:
        engine.stop()


def _apps(app: App, prefix: str = "") -> Iterator[tuple[str, App]]:
    """Yield the commands below ``app`` with their full names."""
    for name, one in app.resolved_commands().items():
        if name.startswith("-"):  # --help and --version
            continue
        if one.default_command is not None:
            yield prefix + name, one
        yield from _apps(one, f"{prefix}{name} ")


def _arguments(app: App) -> Iterator[Argument]:
    for one in app.assemble_argument_collection(parse_docstring=True):
        if one.show:
            yield one


def _option(argument: Argument) -> dict[str, Any]:
    option: dict[str, Any] = {"names": list(argument.names), "help": argument.parameter.help or ""}
    option |= _type(argument.hint) | {"required": argument.required}
    if argument.field_info.default is not argument.field_info.empty:
        shown: Any = argument.parameter.show_default  # None may stand for a number that the help shows
        is_number = isinstance(shown, str) and shown.isdecimal()
        option["default"] = int(shown) if is_number else argument.field_info.default
    return option


def _type(hint: Any) -> dict[str, Any]:
    """Return a type as in JSON Schema."""
    names = {bool: "boolean", int: "integer", float: "number"}
    if hint in names:
        return {"type": names[hint]}
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    parts = [one for one in get_args(hint) if one is not type(None) and one is not Ellipsis]
    if get_origin(hint) in (tuple, list):
        return {"type": "array", "items": _type(parts[0])}
    return _type(parts[0]) if len(parts) == 1 else {"type": "string"}
