"""``vqdiff samplers``: what images can be sampled with, this package's own and those of installed packages."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vqdiff.cli.options import Json
from vqdiff.foundation.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def samplers(name: str | None = None, /, *, json_output: Json = False) -> None:
    """List the samplers, with what they need and whether they are exact, the orders of reveal, the curves, the guides.

    Calls: network calls per image; steps is the setting, T the model's number of diffusion steps. Exact: whether a
    perfect network, without guidance and with all settings off, gives samples of the data; one token per call means
    that it does if every call changes one token at most. An order is a sampler of the same name, too. A guide is what
    guidance leads away from.

    Parameters
    ----------
    name
        A sampler: describe it alone, with the settings it uses.
    json_output
        Print JSON.
    """
    import json

    from rich.console import Console

    from vqdiff.plugins import CURVES, GUIDES, ORDERS, SAMPLERS

    width = None if sys.stdout.isatty() else 220  # a file or a program gets each row on one line
    console = Console(markup=False, highlight=False, width=width)
    if name is not None:
        facts = _facts(name) | {"idea": SAMPLERS.descriptions()[name]}
        if json_output:
            print(json.dumps({name: facts}))
        else:
            _describe(console, name, facts)
        return
    found = dict[str, dict[str, Any]]()
    for one, idea in SAMPLERS.descriptions().items():
        try:
            found[one] = _facts(one) | {"idea": idea}
        except InputError:  # of a package that cannot be imported: its idea says why
            found[one] = {"idea": idea, "paper": "", "calls": "", "exact": "", "uses": None}
    registries = {"orders": ORDERS, "curves": CURVES, "guides": GUIDES}
    others = {title: registry.descriptions() for title, registry in registries.items()}
    if json_output:
        print(json.dumps({"samplers": found} | others))
        return
    table = _table("sampler", "idea", "arXiv", "calls", "exact")
    for one, facts in found.items():
        table.add_row(one, facts["idea"], facts["paper"], facts["calls"], facts["exact"])
    console.print(table)
    for title, descriptions in others.items():
        table = _table(title[:-1], "idea")
        for row in descriptions.items():
            table.add_row(*row)
        console.print()
        console.print(table)


def _facts(name: str) -> dict[str, Any]:
    """What a sampler says of itself, with the settings in the order of `SamplingSettings`."""
    from vqdiff.foundation.options import options_of
    from vqdiff.plugins import SAMPLERS
    from vqdiff.settings import SamplingSettings

    facts = asdict(SAMPLERS.get(name).facts)
    uses = facts["uses"]
    return facts | {"uses": None if uses is None else [one for one in options_of(SamplingSettings) if one in uses]}


def _describe(console: Console, name: str, facts: dict[str, Any]) -> None:
    from vqdiff.foundation.options import options_of
    from vqdiff.settings import SamplingSettings

    table = _table("", "")
    paper = f"https://arxiv.org/abs/{facts['paper']}" if facts["paper"] else "none"
    for row in (("sampler", name), ("idea", facts["idea"]), ("paper", paper)):
        table.add_row(*row)
    for one in ("calls", "exact"):
        table.add_row(one, facts[one])
    table.show_header = False
    console.print(table)
    console.print()
    if facts["uses"] is None:
        console.print("It does not state which settings it uses.")
        return
    table = _table("uses", "")
    for one in facts["uses"]:
        table.add_row(f"--{one.replace('_', '-')}", options_of(SamplingSettings)[one].help)
    console.print(table)
    console.print("\nand the settings of guidance and of candidates, as all samplers do.")


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, padding=(0, 2, 0, 0))
