"""Options: the meaning of a value, the values it allows, and the error for others, defined once for all interfaces.

A dataclass declares its fields with `option`; the command line, the HTTP schema, the page's controls and the columns of
a study are made from them.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from typing import Any, SupportsIndex

from vqdiff.foundation.errors import InputError, about, unknown


@dataclass(frozen=True, kw_only=True)
class Option:
    """A documented value.

    label: its short name on a page and in plots. legend: the format of a value in the legend of a plot. off: the number
    that has no effect.
    """

    help: str
    label: str = ""
    legend: str = ""
    off: int | float = math.nan
    type: Any = None
    """The type of the field; `options_of` sets it."""

    def check(self, name: str, value: Any) -> Any:
        """Return the value as a plain Python object; raises InputError for one that is not allowed."""
        del name
        return value


@dataclass(frozen=True, kw_only=True)
class Number(Option):
    """A number: at least `least`, or more than `above`, and at most `most`."""

    least: int | float = -math.inf
    above: int | float = -math.inf
    most: int | float = math.inf
    slider: tuple[int | float, ...] = ()
    """Minimum, maximum and step of a slider, where the bounds are not a sensible range."""

    def check(self, name: str, value: object) -> float:
        number = number_of(name, value)
        if not (self.least <= number <= self.most and number > self.above):
            off = "" if math.isnan(self.off) else f", {self.off:g} is off"
            raise InputError(f"{name} is {_shown(number)}: {self._range()}{off}")
        return float(number)

    @property
    def range(self) -> tuple[int | float, ...]:
        """Minimum, maximum and step of a slider."""
        if self.slider:
            return self.slider
        least = max(self.least, self.above)
        least = least if math.isfinite(least) else 0
        most = self.most if math.isfinite(self.most) else least + 1
        step = 10.0 ** (math.floor(math.log10(most - least)) - 2)
        return (least + step if self.above >= self.least else least, most, step)

    def _range(self) -> str:
        if self.above > self.least:
            most = "" if math.isinf(self.most) else f" and at most {self.most:.10g}"
            return f"it must be above {self.above:.10g}{most}"
        if math.isinf(self.most):
            return f"at least {self.least:.10g} is needed"
        return f"it must be between {self.least:.10g} and {self.most:.10g}"


@dataclass(frozen=True, kw_only=True)
class Whole(Number):
    """A whole number."""

    def check(self, name: str, value: object) -> int:
        number = whole(name, value)
        super().check(name, number)
        return number  # not as a float, which has no seeds above 2⁵³


@dataclass(frozen=True, kw_only=True)
class Choice(Option):
    """One of the names that `names` returns. kind: what the names stand for."""

    kind: str
    names: Callable[[], Iterable[str]]
    name_of: Callable[[Any], str] | None = None
    """Of a thing that is given in place of its name."""
    installed: Callable[[], list[str]] = list
    """The names among these that are of other packages."""

    def check(self, name: str, value: Any) -> str:
        del name
        if self.name_of is not None and not isinstance(value, str):
            return self.name_of(value)
        if value not in (known := list(self.names())):
            raise unknown(self.kind, value, known)
        return value


@dataclass(frozen=True, kw_only=True)
class Interval(Option):
    """Two increasing numbers from 0 to 1."""

    def check(self, name: str, value: Any) -> tuple[float, float]:
        try:
            low, high = (number_of(name, one) for one in value)
            if not 0 <= low < high <= 1:
                raise ValueError
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} is {value!r}: give two rising numbers from 0 to 1") from error
        return low, high


def _shown(number: int | float) -> str:
    """A number as a person would type it: 0, not 0.0."""
    return str(number).removesuffix(".0")


WholeNumber = SupportsIndex | float
"""What `whole` accepts: also NumPy's integers, and 1.0."""


def option(default: object, described: Option) -> Any:
    """Return a dataclass field with a default and its description."""
    return field(default=default, metadata={"option": described})


@cache
def options_of(cls: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass by field name."""
    types = typing.get_type_hints(cls)
    described = {one.name: one.metadata.get("option") for one in fields(cls)}
    return {name: replace(one, type=types[name]) for name, one in described.items() if one is not None}


def derived(
    name: str, cls: type[Any], kind: Callable[[Option], object], default: object, bases: tuple[type[Any], ...] = ()
) -> type[Any]:
    """Make a frozen dataclass with a field for each option of ``cls``; ``kind`` returns the type of the field."""
    members = [(member, kind(one), default) for member, one in options_of(cls).items()]
    namespace = {"__module__": cls.__module__}  # the default would be a module of Python's own
    return make_dataclass(name, members, bases=bases, frozen=True, namespace=namespace)


def checked(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``values`` with those that are options of a dataclass checked; an InputError names the field."""
    plain = dict(values)
    for name, described in options_of(cls).items():
        if name in plain:
            with about(name):
                plain[name] = described.check(name, plain[name])
    return plain


def check_options(holder: object) -> None:
    """Check every option of a frozen dataclass on creation; an InputError names the field."""
    for name, value in checked(type(holder), vars(holder)).items():
        object.__setattr__(holder, name, value)


def number_of(name: str, value: Any, kind: str = "a number") -> int | float:
    """Convert a number of any type, also NumPy's, to Python's; raises InputError for others, asking for ``kind``."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value  # NumPy's
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} is {number!r}: give {kind}")
    return number


def whole(name: str, value: object, least: int | None = None) -> int:
    """Convert a whole number of any type, also NumPy's or 1.0; raises InputError for others, or one below ``least``."""
    number = number_of(name, value, "a whole number")
    if number != number // 1:
        raise InputError(f"{name} is {number!r}: give a whole number")
    if least is not None and number < least:
        raise InputError(f"{name} is {number}: at least {least} is needed")
    return int(number)
