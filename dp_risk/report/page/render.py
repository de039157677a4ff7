"""One self-contained HTML file from the facts of a report."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from dp_risk.report.facts.run import SCHEMA_VERSION
from dp_risk.report.facts.upgrade import upgrade
from dp_risk.report.page.bound import bind
from dp_risk.report.page.html import esc
from dp_risk.report.sections import SECTIONS
from dp_risk.types import ConfigurationError

_FEW = 3  # sections that need no list of contents


def render(report: Mapping[str, Any], *, sections: Sequence[str] | None = None) -> str:
    """Return a report as HTML that needs no script, no network and no other file.

    Parameters
    ----------
    report : mapping
        What `dp_risk.report.build` returned, or ``report.json`` read back.
    sections : sequence of str or None
        Names from `dp_risk.report.sections.SECTIONS`, in order; None: all of them.

    Raises
    ------
    ConfigurationError
        On a newer schema version or an unknown section.
    """
    newest = report.get("schema_version")
    if not isinstance(newest, int) or newest > SCHEMA_VERSION:
        raise ConfigurationError(
            f"report: schema_version {newest} is not one this version reads "
            f"(up to {SCHEMA_VERSION}); update dp-risk"
        )
    names = list(SECTIONS) if sections is None else list(sections)
    for name in names:
        if name not in SECTIONS:
            raise ConfigurationError(f"report.sections: no section is called {name}")
    style = files("dp_risk.report.page").joinpath("style.css").read_text(encoding="utf-8")
    bound = bind(upgrade(report))
    parts = {name: part for name in names if (part := SECTIONS[name](bound))}
    body = "\n".join(part for name, part in parts.items() if name != "summary")
    about = [str(one) for one in (report.get("subject"), report["settings"].get("run")) if one]
    title = f"{report['title']}: {', '.join(about)}" if about else report["title"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="generator" content="{esc(drawing())}">\n'
        f"<title>{esc(title)}</title>\n"
        f"<style>\n{style}@page {{ @bottom-left {{ content: {_quoted(title)}; }} }}\n"
        "</style></head>\n"
        f"<body><main>\n{parts.get('summary', '')}\n{_contents(parts)}\n{body}\n</main></body>"
        "</html>\n"
    )


def _quoted(words: str) -> str:
    """Return words as a string of CSS, all but the plainest characters by their number."""
    plain = re.sub("[^A-Za-z0-9 .,:-]", lambda found: f"\\{ord(found[0]):x} ", words)
    return f'"{plain}"'


@cache
def drawing() -> str:
    """Return the name of the code that draws pages: version, and digest of its files."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(files("dp_risk.report"), "")):
        digest.update(name.encode() + b"\0" + content)
    return f"dp-risk {version('dp-risk')} {digest.hexdigest()[:16]}"


def _sources(room: Traversable, above: str) -> Iterator[tuple[str, bytes]]:
    for one in room.iterdir():
        name = f"{above}/{one.name}"
        if one.is_dir():
            yield from _sources(one, name)
        elif name.endswith((".py", ".css")):
            yield name, one.read_bytes()


def _contents(parts: Mapping[str, str]) -> str:
    """Return links to the sections, by their headings."""
    found = [
        match.groups()
        for part in parts.values()
        for match in re.finditer(r'<h2 id="([a-z]+)-title">(.*?)</h2>', part)
    ]
    if len(found) < _FEW:
        return ""
    links = "".join(f'<li><a href="#{anchor}">{words}</a></li>' for anchor, words in found)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
