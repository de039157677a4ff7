"""Reports: facts (JSON) in, one self-contained HTML file out."""

from __future__ import annotations

from dp_risk.report.facts.audit import build_audit
from dp_risk.report.facts.run import SCHEMA_VERSION, build
from dp_risk.report.page.render import render

__all__ = ["SCHEMA_VERSION", "build", "build_audit", "render"]
