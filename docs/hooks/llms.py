"""MkDocs hook: ``llms.txt``, a list of the pages for language models, and ``llms-full.txt``, their whole text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

_SITE = dict[str, Navigation]()
_TEXTS = dict[str, str]()
_INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


def on_nav(nav: Navigation, **_: object) -> None:
    """Keep the order of the pages."""
    _SITE["nav"] = nav


def on_page_markdown(markdown: str, page: Page, **_: object) -> None:
    """Keep the text as the other hooks and plugins leave it."""
    _TEXTS[page.file.src_uri] = markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Write both files."""
    lines, texts = [f"# {config.site_name}\n\n> {config.site_description}"], list[str]()
    for item in _SITE["nav"].items:
        lines.append(f"## {item.title}\n")
        for page in _pages(item):
            text = _INCLUDE.sub(lambda found: Path(found[1]).read_text("utf-8"), _TEXTS[page.file.src_uri])
            lines.append(f"- [{page.title}]({page.url or './'}){_summary(text)}")
            if not text.startswith(":::"):
                texts.append(text)
    site = Path(config.site_dir)
    (site / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(texts) + "\n", "utf-8")


def _pages(item: object) -> Iterator[Page]:
    if isinstance(item, Page):
        yield item
    elif isinstance(item, Section):
        for child in item.children:
            yield from _pages(child)


def _summary(text: str) -> str:
    """Return the first sentence after the heading; nothing if the page begins with something else than prose."""
    paragraph = next((one for one in text.split("\n\n") if not one.startswith("#")), "")
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
    return ": " + re.split(r"(?<=[a-z)`])[.:](?= |$)", plain)[0] + "." if re.match(r"[A-Z`]\w", plain) else ""
