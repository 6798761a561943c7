"""Tables and quotations of the documentation agree with the code."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from vqdiff.cli import app
from vqdiff.foundation import extras
from vqdiff.presets import PUBLISHED
from vqdiff.sampling import PlanStep, StepInput, StepSettings, get_sampler, samplers
from vqdiff.sampling.sampler import REVEALING

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for block in re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\$ )?vqdiff [a-z]", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_pages_are_accepted(line: str) -> None:
    """Command, arguments and options, without running it."""
    words = shlex.split(line, comments=True)
    ends = [words.index(word) for word in ("|", "&", "&&", ">", ";") if word in words]
    app.parse_args(words[words.index("vqdiff") + 1 : min(ends, default=None)], print_error=False, exit_on_error=False)


def test_presets_of_the_pages_are_there() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert set(re.findall(r"--preset ([a-z][\w-]+)", text)) <= {*PUBLISHED, "fast", "best"}


MESSAGES = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def code() -> str:
    """All the code, with a text on several lines as one."""
    sources = [file.read_text("utf-8") for file in (ROOT / "src").rglob("*.py")]
    return re.sub(r'"\s+f?"', "", "\n".join([*sources, extras.message("…", ["…"], ["…"])]))


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_the_troubleshooting_are_those_of_the_code(message: str, code: str) -> None:
    assert re.search(".*?".join(map(re.escape, filter(None, message.split("…")))), code), message


def test_the_samplers_are_described_as_they_describe_themselves() -> None:
    text = (ROOT / "docs" / "generating.md").read_text("utf-8")
    described, _, used = (
        text.partition("### Samplers")[2].partition("###")[0].partition("Which settings a sampler uses")
    )
    rows = re.findall(r"^\| (`.*`) \| (\w+) \| (\w+) \| (\w+) \|(.*)\| (.*) \|$", used, re.MULTILINE)
    rows = {name: row[1:] for row in rows for name in re.findall(r"`([\w-]+)`", row[0])}
    assert set(rows) == set(samplers())
    for name, idea in samplers().items():
        facts = get_sampler(name).facts
        paper = f"[{facts.paper}](https://arxiv.org/abs/{facts.paper})" if facts.paper else ""
        assert f"| `{name}` | {idea} | {paper} | {facts.calls} | {facts.exact} |\n" in described
        uses, columns = set(facts.uses or ()), ["truncation", "prior_scale", "curve"]
        assert rows[name][:3] == tuple("yes" if column in uses else "no" for column in columns), name
        assert set(re.findall(r"`(\w+)`", rows[name][3])) == uses - REVEALING - {"prior_scale"}, name
        assert rows[name][4].startswith("ignored") == ("steps" not in uses), name


@pytest.mark.parametrize(("kind", "prefix"), [(StepInput, "x"), (PlanStep, "x.now"), (StepSettings, "x.settings")])
def test_what_a_step_gets_is_on_the_page_about_extensions(kind: type, prefix: str) -> None:
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    table = text.partition(f"| `{prefix}.…` |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)", " ".join(line.split("|")[1] for line in table.splitlines()[2:])))
    fields = getattr(kind, "_fields", None) or kind.__dataclass_fields__  # type: ignore[attr-defined]
    assert set(fields) <= named
    assert all(hasattr(kind, name) or name in fields for name in named)


def test_functions_for_samplers_are_there() -> None:
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    for name in re.findall(r"`(vqdiff\.(?:sampling|diffusion)[\w.]*)`", text):
        module, _, thing = name.rpartition(".")
        assert hasattr(importlib.import_module(module), thing) or importlib.import_module(name)
