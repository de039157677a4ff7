"""One self-contained HTML file from the facts of a report."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from dp_risk.report.bound import bind
from dp_risk.report.facts import SCHEMA_VERSION
from dp_risk.report.html import esc
from dp_risk.report.sections import SECTIONS
from dp_risk.report.upgrade import upgrade
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
    style = files("dp_risk.report").joinpath("style.css").read_text(encoding="utf-8")
    bound = bind(upgrade(report))
    parts = {name: part for name in names if (part := SECTIONS[name](bound))}
    body = "\n".join(part for name, part in parts.items() if name != "summary")
    subject = f": {report['subject']}" if report.get("subject") else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="generator" content="{esc(drawing())}">\n'
        f"<title>{esc(report['title'])}{esc(subject)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{parts.get('summary', '')}\n{_contents(parts)}\n{body}\n</main></body>"
        "</html>\n"
    )


@cache
def drawing() -> str:
    """Return the name of the code that draws pages: version, and digest of its files."""
    digest = hashlib.sha256()
    rooms = [files("dp_risk.report"), files("dp_risk.report.sections")]
    for room in rooms:
        for file in sorted(room.iterdir(), key=lambda one: one.name):
            if file.name.endswith((".py", ".css")):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"dp-risk {version('dp-risk')} {digest.hexdigest()[:16]}"


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
