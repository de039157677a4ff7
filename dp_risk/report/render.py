"""One self-contained HTML file from the facts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from dp_risk.report.facts import SCHEMA_VERSION
from dp_risk.report.html import esc
from dp_risk.report.sections import SECTIONS
from dp_risk.types import ConfigurationError


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
    version = report.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"report: schema_version {version} is not one this version reads "
            f"(up to {SCHEMA_VERSION}); update dp-risk"
        )
    names = list(SECTIONS) if sections is None else list(sections)
    for name in names:
        if name not in SECTIONS:
            raise ConfigurationError(f"report.sections: no section is called {name}")
    style = files("dp_risk.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(filter(None, (SECTIONS[name](report) for name in names)))
    subject = f": {report['subject']}" if report.get("subject") else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{esc(report['title'])}{esc(subject)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
