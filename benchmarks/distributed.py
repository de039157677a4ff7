"""Utility with a secure sum beside DP-SGD on pooled data with the same plan, in one run.

Every line has the same epsilon, delta, clip norm, sampling rate and number of rounds. The pooled
one has all rows at one site, no spare rounds and nobody who may collude. Overrides are those of
`dp-risk frontier`; the data must be public:

    python benchmarks/distributed.py --epsilons 1 --colluding 1 2 4 8 --json figures.json
    python benchmarks/distributed.py --losing 0.3 federation.sites=50 federation.min_sites=35
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import statistics
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from beds import metrics
from flwr.app import Context, Message

from clients.app import make_app
from clients.site import Site
from dp_risk import wire
from dp_risk.cli import compose, training
from dp_risk.cli.scratch import scratch_place
from dp_risk.cli.settings import Settings
from dp_risk.cli.simulate import make_sites
from dp_risk.evaluation.stored import split_digest
from dp_risk.types import Refused
from server.grids import InProcessGrid
from server.job import Job
from server.rounds import execute

CHARGED = {
    "train": "training",
    "query.counts": "counts",
    "query.score_bins": "score_bins",
    "query.evaluation": "evaluation",
}


@dataclass(eq=False)
class Lossy:
    """The sites' app, of which some sites fall silent for good at a random round of training."""

    leave: dict[int, int]
    reached: defaultdict[int, set[tuple[str, int]]] = field(
        default_factory=lambda: defaultdict(set)
    )

    def __post_init__(self) -> None:
        self._app = make_app()
        self._gone: set[int] = set()

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer, or be gone."""
        node, purpose = context.node_id, CHARGED.get(message.metadata.message_type)
        if purpose is not None:
            asked = (purpose, wire.read_request(message).values["round"])
            if purpose == "training" and asked[1] >= self.leave.get(node, asked[1] + 1):
                self._gone.add(node)
            if node not in self._gone:
                self.reached[node].add(asked)
        if node in self._gone:
            raise RuntimeError("gone")
        return self._app(message, context)


def run(settings: Settings, scratch: Path, losing: float = 0.0) -> dict[str, Any]:
    """Train once; return the plan's numbers, the utility and whether every ledger is right."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    asked = settings.asked.epsilon or 1.0
    sites = make_sites(settings, folder / "sites", lifetime_epsilon=2 * asked + 2)
    holdout = training.public_holdout(sites)
    if holdout is None:
        raise Refused("data.public: the holdout is scored exactly, so the data must be public")
    job = Job(
        run=secrets.token_hex(8), folder=folder, dataset=settings.data.dataset,
        schema=settings.data.load_schema().to_dict(), model=settings.model_name,
        model_options=settings.model_options, privacy=settings.asked,
        federation=settings.federation, seed=settings.seed,
        capacity=settings.evaluation.capacity, memory=None,
    )  # fmt: skip
    nodes = {number + 2: str(site) for number, site in enumerate(sites)}
    rounds = settings.federation.rounds or 50
    chosen = random.sample(sorted(nodes), round(losing * len(nodes)))
    app = Lossy(leave={node: random.randrange(rounds) for node in chosen})
    record = execute(InProcessGrid(app, nodes), job)
    scores = training.scores(folder, holdout)
    right = True
    for node, site in nodes.items():
        ledger = Site.open(Path(site)).ledger
        paid = Counter(e.body["purpose"] for e in ledger.entries() if e.kind == "charge")
        right &= paid == Counter(purpose for purpose, _ in app.reached[node])
        ledger.close_file()
    return {
        "epsilon": settings.asked.epsilon,
        "seed": settings.seed,
        "trust": record["trust"],
        "max_colluding": record["max_colluding"],
        "sites": len(sites),
        "rounds": record["rounds"],
        "spare_rounds": record["spare_rounds"],
        "rounds_abandoned": record["rounds_abandoned"],
        "sites_lost": len(chosen),
        "ledgers_right": right,
        "q": record["q"],
        "sigma": record["sigma"],
        "learning_rate": record["learning_rate"],
        **metrics(holdout.labels, scores),
        "seconds": record["seconds"],
        "holdout": split_digest(holdout.ids[:0], holdout.ids)[:16],
    }


def pooled(settings: Settings, rounds: int) -> Settings:
    """Return the same run with all rows at one site."""
    privacy = replace(settings.asked, trust="local")
    federation = replace(
        settings.federation, sites=1, min_sites=None, spare_rounds=None, rounds=rounds
    )
    return replace(settings, privacy=privacy, federation=federation)


def main() -> None:
    """Measure, print every run and the means, and write them as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 4.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--colluding", type=int, nargs="+", default=[1])
    parser.add_argument("--losing", type=float, default=0.0, help="part of the sites that leave")
    parser.add_argument("--no-pooled", action="store_true", help="leave out the pooled line")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    base, found = compose.settings(options.overrides), []
    with scratch_place() as scratch:
        for epsilon in options.epsilons:
            for seed in options.seeds:
                lines = []
                for count in options.colluding:
                    one = compose.with_privacy(
                        base, seed=seed, epsilon=epsilon, trust="distributed", max_colluding=count
                    )
                    lines.append(run(one, scratch, options.losing))
                if not options.no_pooled:
                    lines.append(run(pooled(one, lines[0]["rounds"]), scratch))
                for line in lines:
                    print(", ".join(f"{key} {value}" for key, value in line.items()), flush=True)
                found += lines
    groups = defaultdict(list)
    for line in found:
        groups[line["epsilon"], line["trust"], line["max_colluding"]].append(line)
    means = [
        {
            "epsilon": epsilon,
            "line": f"max_colluding {count}" if trust == "distributed" else "pooled",
            "auroc": round(statistics.fmean(line["auroc"] for line in lines), 5),
            "auprc": round(statistics.fmean(line["auprc"] for line in lines), 5),
        }
        for (epsilon, trust, count), lines in groups.items()
    ]
    print(*means, sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"means": means, "runs": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
