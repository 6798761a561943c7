"""``vqdiff samplers``: what images can be sampled with, this package's own and those of installed packages."""

from __future__ import annotations

import sys

from vqdiff.cli.options import Json


def samplers(*, json_output: Json = False) -> None:
    """List the samplers, with what they need and whether they are exact, the orders of reveal, the curves, the guides.

    Calls: network calls per image; steps is the setting, T the model's number of diffusion steps. Exact: whether a
    perfect network, without guidance and with all settings off, gives samples of the data; one token per call means
    that it does if every call changes one token at most. An order is a sampler of the same name, too. A guide is what
    guidance leads away from.

    Parameters
    ----------
    json_output
        Print JSON.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from vqdiff.foundation.errors import InputError
    from vqdiff.plugins import CURVES, GUIDES, ORDERS, SAMPLERS

    found = dict[str, dict[str, str]]()
    for name, idea in SAMPLERS.descriptions().items():
        try:
            facts = SAMPLERS.get(name).facts
        except InputError:  # of a package that cannot be imported: its idea says why
            found[name] = {"idea": idea, "paper": "", "calls": "", "exact": ""}
        else:
            found[name] = {"idea": idea, "paper": facts.paper, "calls": facts.calls, "exact": facts.exact}
    others = {name: kind.descriptions() for name, kind in (("orders", ORDERS), ("curves", CURVES), ("guides", GUIDES))}
    if json_output:
        print(json.dumps({"samplers": found} | others))
        return
    width = None if sys.stdout.isatty() else 220  # a file or a program gets each row on one line
    console = Console(markup=False, highlight=False, width=width)
    table = Table("sampler", "idea", "arXiv", "calls", "exact", box=None, padding=(0, 2, 0, 0))
    for name, facts in found.items():
        table.add_row(name, *facts.values())
    console.print(table)
    for title, descriptions in others.items():
        table = Table(title[:-1], "idea", box=None, padding=(0, 2, 0, 0))
        for row in descriptions.items():
            table.add_row(*row)
        console.print()
        console.print(table)
