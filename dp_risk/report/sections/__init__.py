"""The sections of a report, in order: facts in, HTML out, empty where nothing is said."""

from __future__ import annotations

from dp_risk.report.sections.audit import AUDIT_SECTIONS
from dp_risk.report.sections.charges import charges, search
from dp_risk.report.sections.claim import claim
from dp_risk.report.sections.common import Section
from dp_risk.report.sections.comparison import COMPARISON_SECTIONS
from dp_risk.report.sections.explained import glossary, methods
from dp_risk.report.sections.frontier import frontier
from dp_risk.report.sections.limits import configuration, limits, review
from dp_risk.report.sections.membership import membership
from dp_risk.report.sections.shapes import shapes
from dp_risk.report.sections.sites import losses, sites
from dp_risk.report.sections.subgroups import subgroups
from dp_risk.report.sections.summary import summary
from dp_risk.report.sections.training import training
from dp_risk.report.sections.utility import utility

SECTIONS: dict[str, Section] = {
    "summary": summary,
    **COMPARISON_SECTIONS,
    # What is signed.
    "claim": claim,
    "charges": charges,
    "sites": sites,
    "losses": losses,
    "search": search,
    "limits": limits,
    "evidence": AUDIT_SECTIONS["evidence"],
    "frontier": frontier,
    "utility": utility,
    "subgroups": subgroups,
    "review": review,
    # The evidence in detail.
    **AUDIT_SECTIONS,
    "membership": membership,
    # What ran, and what the words mean.
    "shapes": shapes,
    "training": training,
    "configuration": configuration,
    "methods": methods,
    "glossary": glossary,
}
