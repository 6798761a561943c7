"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Output = Annotated[Path, Parameter(name=["--output", "-o"])]
"""``--output``, ``-o``: the file to write."""

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""``--json``: print a record instead of a line."""

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
"""``--set key=value``, repeated: changes of a configuration file."""
