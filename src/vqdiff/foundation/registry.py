"""Named objects of one kind: of this package, registered by a program, or offered by installed packages."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import getdoc
from typing import Any, Generic, TypeVar

from vqdiff.foundation.errors import InputError, unknown

S = TypeVar("S")
T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one ``kind`` by name, such as samplers.

    home: the module that registers this package's own on import, which happens at first use. group: the group of entry
    points in which other packages offer theirs; each is imported when it is used.
    """

    def __init__(self, kind: str, group: str, home: str) -> None:
        self.kind, self.group, self.home = kind, group, home
        self._things = dict[str, T]()
        self._descriptions = dict[str, str]()
        self._offered: dict[str, Any] | None = None

    def register(self, name: str, thing: T, description: str = "") -> T:
        """Register ``thing`` under a name and return it. description: one line, by default the first of its docstring.

        Raises InputError if the name is taken by another.
        """
        if self._things.get(name, thing) != thing:
            raise InputError(f"there is already a {self.kind} named {name!r}: choose another name")
        self._things[name] = thing
        self._descriptions[name] = description or (getdoc(thing) or "").partition("\n")[0]
        return thing

    def add(self, thing: S) -> S:
        """Register a class or function under its own name; a decorator."""
        self.register(thing.__name__, thing)  # type: ignore[attr-defined, arg-type]
        return thing

    def get(self, name: str) -> T:
        """Return the object of that name; raises InputError for an unknown one, which suggests the nearest."""
        offered = self._find()
        if name not in self._things and name in offered:
            try:
                self.register(name, offered[name].load())
            except (ImportError, AttributeError) as error:
                where = offered[name].value
                raise InputError(
                    f"the {self.kind} {name!r} of an installed package, {where}, fails: {error}"
                ) from error
        if name not in self._things:
            raise unknown(self.kind, name, self.names())
        return self._things[name]

    def names(self) -> list[str]:
        """Return all names, this package's own first."""
        offered = self._find()
        return list(dict.fromkeys([*self._things, *offered]))

    def installed(self) -> list[str]:
        """Return the names of other packages' objects, without importing anything, in alphabetical order."""
        return sorted(point.name for point in entry_points(group=self.group))

    def name_of(self, thing: T) -> str:
        """Return the name of a registered object; raises InputError if it is not registered."""
        self._find()
        for name, one in self._things.items():
            if one == thing:
                return name
        raise InputError(f"{thing!r} is not registered: register this {self.kind} under a name first")

    def descriptions(self) -> dict[str, str]:
        """Return all names, each with a one-line description; this imports those of other packages."""
        return {name: self._describe(name) for name in self.names()}

    def _describe(self, name: str) -> str:
        try:
            self.get(name)
        except InputError as error:  # of one package: the others can be used
            return str(error)
        return self._descriptions[name]

    def _find(self) -> dict[str, Any]:
        """Return the entry points of other packages by name."""
        if self._offered is None:
            self._offered = {}
            import_module(self.home)
            self._offered = {point.name: point for point in entry_points(group=self.group)}
        return self._offered
