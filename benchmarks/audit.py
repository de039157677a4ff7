"""How tight the audit is: claims, what canaries certify of them, and how long it took.

    python benchmarks/audit.py                       # claims 1, 4 and 8 on Spambase
    python benchmarks/audit.py --epsilons 4 --json data=adult model=mlp

Overrides are those of `dp-risk audit`. Every claim is audited on fresh simulated sites.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from typing import Any

from dp_risk.cli.audit.audit import examine
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.compose import settings
from dp_risk.cli.scratch import scratch_place

# In the order of an audit's results; the membership attack, if any, is behind them.
_BOUNDS = ("white_box", "one_run", "one_run_fdp")


def audited(epsilon: float, overrides: list[str]) -> dict[str, Any]:
    """Audit one claim; return a row."""
    asked, started = settings([f"privacy.epsilon={epsilon}", *overrides]), time.monotonic()
    with scratch_place() as folder:
        found = examine(Scratch(settings=asked, folder=folder), lambda *_: None)
    bounds = {
        name: result.epsilon_lower_bound
        for name, result in zip(_BOUNDS, found.results, strict=False)
    }
    canaries = found.evidence["canaries"]
    return {
        "data": asked.data.dataset,
        "model": asked.model_name,
        "claimed": epsilon,
        **bounds,
        "ratio": bounds["white_box"] / epsilon,
        "gate": found.gate_epsilon,
        "inside": canaries["inside"],
        "outside": canaries["outside"],
        "runs": canaries["runs"],
        "verdict": found.verdict,
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Audit every claim and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epsilons", default="1,4,8", help="claims (default: 1,4,8)")
    parser.add_argument("--json", action="store_true", help="one JSON object a claim")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    for number, epsilon in enumerate(map(float, options.epsilons.split(","))):
        row = audited(epsilon, options.overrides)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        if number == 0:
            print("  ".join(f"{name:>11}" for name in row))
        print("  ".join(f"{_shown(value):>11}" for value in row.values()), flush=True)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
