"""A hash of the code of a computation: the source of modules of this package and of everything that they import."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from torch import nn

_PACKAGE = "vqdiff"
_KNOWN = {_PACKAGE, "builtins", "torch"}


@cache
def source_hash(*modules: str) -> str:
    """Twelve hex digits that change with the code of these modules, or of any in this package that they import.

    Comments and docstrings are ignored. Raises ModuleNotFoundError for a module that does not exist.
    """
    trees, waiting = dict[str, str](), list(modules)
    while waiting:
        name = waiting.pop()
        if name in trees or name == _PACKAGE:  # its own module has only lazy names and the version
            continue
        if (spec := find_spec(name)) is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} does not exist, so nothing can be keyed on it")
        tree = ast.parse(Path(spec.origin).read_text("utf-8"))
        waiting += [name.rpartition(".")[0], *_imported(tree, spec)]
        trees[name] = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(repr(sorted(trees.items())).encode()).hexdigest()[:12]


def foreign_hash(*objects: object) -> str:
    """Hash the modules of the classes and functions in ``objects`` that other packages or programs define.

    They are those of the objects themselves, of their fields, and of a network's parts. Empty if there are none.
    """
    found = list[object]()
    for one in objects:
        found += one.modules() if isinstance(one, nn.Module) else [one, *getattr(one, "__dict__", {}).values()]
    kinds = {one if inspect.isfunction(one) else type(one) for one in found}
    names = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in _KNOWN}
    sources = [(name, _source(name)) for name in sorted(names)]
    return hashlib.sha256(repr(sources).encode()).hexdigest()[:12] if sources else ""


def _source(name: str) -> str:
    file = getattr(sys.modules.get(name), "__file__", None)
    return "" if file is None else Path(file).read_text("utf-8")


def _imported(tree: ast.Module, spec: ModuleSpec) -> Iterator[str]:
    """The modules of this package that a module imports, at its top or later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith(f"{_PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{_PACKAGE}."):
            assert node.level == 0, f"{spec.name} imports by relative names"
            for name in node.names:
                yield submodule if _is_module(submodule := f"{node.module}.{name.name}") else str(node.module)


def _is_module(name: str) -> bool:
    parent = find_spec(name.rpartition(".")[0])
    return parent is not None and parent.submodule_search_locations is not None and find_spec(name) is not None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree
