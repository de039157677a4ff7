"""Exact metrics and non-private baselines: for public data only."""

from __future__ import annotations

from dp_risk.evaluation.baselines import gradient_boosting, logistic, site_alone
from dp_risk.evaluation.metrics import METRICS, Estimate, auprc, auroc, evaluate

__all__ = [
    "METRICS",
    "Estimate",
    "auprc",
    "auroc",
    "evaluate",
    "gradient_boosting",
    "logistic",
    "site_alone",
]
