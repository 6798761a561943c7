"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
"""``--set key=value``, repeated: changes of a configuration file."""
