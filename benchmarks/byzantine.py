"""What lying sites do to a run, by rule: AUROC with and without them, in one table.

Two of ten sites lie in every round of training, and sign what they send with their own key.
Overrides are those of `dp-risk train`; the data must be public:

    python benchmarks/byzantine.py --epsilon 8 --json figures.json partition=iid
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message
from numpy.typing import NDArray

from clients.app import make_app
from clients.policy import Policy
from clients.site import POLICY, SIGNING
from dp_risk import wire
from dp_risk.cli import compose, training
from dp_risk.cli.scratch import scratch_place
from dp_risk.cli.settings import Settings
from dp_risk.cli.simulate import make_sites
from dp_risk.evaluation.metrics import auroc
from dp_risk.privacy import keys
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import CONTEXT, Release, arrays_digest, receipt
from dp_risk.types import ConfigurationError, FederationError, Refused
from server.grids import InProcessGrid
from server.job import Job
from server.norms import longest
from server.robust import Rule
from server.rounds import execute

Arrays = Mapping[str, NDArray[Any]]
# What a liar makes of its honest answer, of the weights that it was asked at, and of the length
# that no honest answer exceeds.
ATTACKS: dict[str, Callable[[Arrays, Arrays, float], Arrays]] = {
    "flipped": lambda a, *_: _times(-1, a),
    "flipped, longest": lambda a, _, most: _times(-most / _norm(a), a),
    "back to zero, longest": lambda _, at, most: _times(most / max(_norm(at), 1e-9), at),
    "flipped, claims 10^9 units": lambda a, *_: _times(-1, a),
    "flipped, claims 1 unit": lambda a, _, most: _times(-most / _norm(a), a),
    "scaled x10": lambda a, *_: _times(10, a),
    "scaled x1000": lambda a, *_: _times(1000, a),
    "NaN": lambda a, *_: _times(np.nan, a),
    "wrong shape": lambda a, *_: {name: array.ravel()[:-1] for name, array in a.items()},
    "stale": lambda a, *_: a,
    "re-keyed": lambda a, *_: a,
}
CLAIMS = {"flipped, claims 10^9 units": 10**9, "flipped, claims 1 unit": 1}


def _norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum((array**2).sum() for array in arrays.values())))


def _times(scale: float, arrays: Arrays) -> Arrays:
    return {name: np.asarray(scale * array, np.float64) for name, array in arrays.items()}


class Lying:
    """The sites' app, of which some sites lie in every round of training.

    Parameters
    ----------
    liars : mapping of int to Path
        Folders of the sites that lie, by node.
    attack : str
        One of `ATTACKS`.
    """

    def __init__(self, liars: Mapping[int, Path], attack: str) -> None:
        self._app, self._attack = make_app(), attack
        self._keys = {node: _key(folder, attack) for node, folder in liars.items()}
        self._units = {node: Policy.load(f / POLICY).units or 0 for node, f in liars.items()}
        self._first: dict[int, Release] = {}
        self._plan: Plan | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer, or lie."""
        reply = self._app(message, context)
        node, kind = context.node_id, message.metadata.message_type
        if node not in self._keys:
            return reply
        request = wire.read_request(message)
        if kind == "query.enrol":
            self._plan = Plan.from_dict(request.values["plan"])
        if kind == "query.status" and self._attack in CLAIMS:
            said = {**wire.read_statement(reply.content), "units": CLAIMS[self._attack]}
            reply.content = wire.statement_record(said)
        if kind != "train" or self._plan is None:
            return reply
        honest = wire.read_release(reply.content)
        if self._attack == "stale":
            lie = self._first.setdefault(node, honest)
        else:
            units = CLAIMS.get(self._attack, self._units[node])
            most = 0.999 * longest(self._plan, units, sites=1, noises=1.0)
            arrays = ATTACKS[self._attack](honest.arrays, request.weights, most)
            lie = signed(honest, arrays, self._keys[node])
        reply.content = wire.release_record(lie)
        return reply


def _key(folder: Path, attack: str) -> Ed25519PrivateKey:
    if attack == "re-keyed":
        return Ed25519PrivateKey.generate()
    return keys.load_or_create(folder / SIGNING)


def signed(honest: Release, arrays: Arrays, key: Ed25519PrivateKey) -> Release:
    """Return a release of other arrays, signed."""
    digest = arrays_digest(arrays)
    said = receipt(honest.run, honest.purpose, honest.round, digest, honest.ledger_head)
    return replace(honest, arrays=arrays, digest=digest, signature=keys.sign(key, CONTEXT, said))


def run(settings: Settings, scratch: Path, attack: str | None, liars: int) -> dict[str, Any]:
    """Train once; return the exact AUROC on the holdout of the honest sites."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    asked = settings.asked.epsilon or 1.0
    sites = make_sites(settings, folder / "sites", lifetime_epsilon=2 * asked + 2)
    holdout = training.public_holdout(sites[liars:])
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
    bad = {node: Path(nodes[node]) for node in list(nodes)[:liars]} if attack else {}
    app = Lying(bad, attack) if attack else make_app()
    line: dict[str, Any] = {
        "rule": settings.federation.rule,
        "attack": attack or "none",
        "seed": settings.seed,
    }
    try:
        record = execute(InProcessGrid(app, nodes), job)
    except (FederationError, ConfigurationError) as error:
        return {**line, "auroc": None, "stopped": str(error)}
    dropped = Counter(
        (one["site"], one["reason"])
        for row in (folder / "rounds.jsonl").read_text().splitlines()
        for one in json.loads(row)["dropped"]
    )
    return {
        **line,
        "auroc": float(auroc(holdout.labels, training.scores(folder, holdout))),
        "rounds": record["rounds"],
        "dropped": [f"{site}: {reason} ({count})" for (site, reason), count in dropped.items()],
        "seconds": record["seconds"],
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return means over seeds as a Markdown table: attacks down, rules across."""
    rules = list(dict.fromkeys(line["rule"] for line in found))
    lines = ["| attack | " + " | ".join(rules) + " |", "|---|" + "---|" * len(rules)]
    for attack in dict.fromkeys(line["attack"] for line in found):
        cells = []
        for rule in rules:
            got = [x["auroc"] for x in found if (x["rule"], x["attack"]) == (rule, attack)]
            cells.append("stops" if None in got else f"{statistics.fmean(got):.4f}")
        lines.append(f"| {attack} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print every run and the table, and write them as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", default=[*Rule], choices=[*Rule])
    parser.add_argument("--attacks", nargs="+", default=[*ATTACKS], choices=[*ATTACKS])
    parser.add_argument("--liars", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    base, found = compose.settings(options.overrides), []
    with scratch_place() as scratch:
        for seed in options.seeds:
            one = compose.with_privacy(base, seed=seed, epsilon=options.epsilon, trust="local")
            for rule in options.rules:
                # A sum is given as many sites to miss: else the first that is dropped ends the run.
                least = one.federation.sites - options.liars
                federation = replace(one.federation, rule=rule, min_sites=least)
                for attack in (None, *options.attacks):
                    line = run(replace(one, federation=federation), scratch, attack, options.liars)
                    print(", ".join(f"{key} {value}" for key, value in line.items()), flush=True)
                    found.append(line)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
