from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def run() -> dict[str, Any]:
    event = {
        "codec": 1,
        "kind": "gaussian",
        "noise_multiplier": 11.4,
        "sampling_rate": 1.0,
        "count": 60,
    }
    return {
        "schema_version": 1,
        "trust": "local",
        "unit": "record",
        "adjacency": "add-remove",
        "delta": 1e-5,
        "epsilon_target": 1.0,
        "epsilon_spent": 0.9996,
        "epsilon_lifetime": 1.24,
        "sigma": 11.4,
        "q": 1.0,
        "steps": 60,
        "rounds": 60,
        "rounds_abandoned": 0,
        "clip_norm": 1.0,
        "min_sites": 2,
        "max_colluding": 0,
        "randomness": "system",
        "sites": [
            {
                "site": f"site-{i}",
                "units": 400,
                "epsilon_spent": 0.9996,
                "epsilon_lifetime_left": 8.76,
                "ledger_head": "ab" * 32,
                "rounds_joined": 60,
            }
            for i in range(3)
        ],
        "charges": [
            {"split": "train", "purpose": "training", "event": event, "epsilon": 0.9},
            {"split": "train", "purpose": "counts", "event": event | {"count": 1}, "epsilon": 0.1},
        ],
        "utility": {
            "auroc": {"value": 0.967, "low": 0.95, "high": 0.98},
            "auprc": {"value": 0.95, "low": 0.93, "high": 0.97},
        },
        "seconds": 5.2,
        "peak_rss_mb": 600.0,
        "versions": {"python": "3.11.2", "torch": "2.6.0"},
        "commit": "abc123",
        "assumptions": ["A record sits at one site."],
    }


@pytest.fixture
def frontier() -> dict[str, Any]:
    points: list[dict[str, Any]] = [
        {
            "trust": "local",
            "model": "additive",
            "epsilon": epsilon,
            "seed": seed,
            "auroc": auroc + 0.002 * seed,
            "auprc": auroc - 0.02,
            "seconds": 4.0,
        }
        for seed in range(3)
        for epsilon, auroc in ((0.5, 0.953), (1.0, 0.967), (4.0, 0.978), (None, 0.983))
    ]
    baselines: list[dict[str, Any]] = [
        {"name": "logistic", "epsilon": None, "seed": 0, "auroc": 0.983, "auprc": 0.978},
        {"name": "gradient_boosting", "epsilon": None, "seed": 0, "auroc": 0.989, "auprc": 0.985},
        {"name": "site_alone", "epsilon": None, "seed": 0, "auroc": 0.6, "auprc": 0.5},
        {"name": "pooled_dp", "epsilon": 0.5, "seed": 0, "auroc": 0.966, "auprc": 0.95},
        {"name": "pooled_dp", "epsilon": 4.0, "seed": 0, "auroc": 0.98, "auprc": 0.96},
    ]
    return {"points": points, "baselines": baselines}


@pytest.fixture
def shapes() -> list[dict[str, Any]]:
    bins = ["in [17, 21.6)", "in [21.6, 90]", ": missing"]
    return [
        {"feature": "age", "kind": "bins", "x": bins, "y": [-0.5, 0.7, 0.0]},
        {"feature": "work", "kind": "bins", "x": ["Private", "State", ": other"], "y": [0.1, 0, 0]},
        {"feature": "free", "kind": "linear", "x": [0.0, 3.1, 100.0], "y": [0.0, 1.0, 2.0]},
    ]


@pytest.fixture
def rounds() -> list[dict[str, Any]]:
    return [
        {"round": i + 1, "epsilon_spent": 0.1 * i, "auprc": 0.9, "seconds": 0.1} for i in range(130)
    ]
