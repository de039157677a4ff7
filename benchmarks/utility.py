"""Utility of dp-risk at its defaults beside other programs that get the pooled data.

dp-risk trains at ten sites with a secure sum (trust `distributed`), through the path of a run. The
others are those of `benchmarks/peers.py`, on the same rows and splits: fitted here with `--peers`
where they are installed, else read from `benchmarks/peers_utility.json`. DP-EBM is, for each bed,
epsilon and metric, the better of its two forms.

    PYTHONPATH=. python benchmarks/utility.py --beds spambase adult uci --data FOLDER --json FILE
    PYTHONPATH=. python benchmarks/utility.py --quick

Overrides of `dp-risk train` may follow, after another flag than a list:

    PYTHONPATH=. python benchmarks/utility.py --seeds 0 1 --json FILE federation.sites=50

A margin is the mean over seeds of dp-risk's metric less the other's on the same split. It is set
beside the spread: the larger of the two standard deviations over seeds, n - 1 in the denominator.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from beds import BEDS, METRICS, Bed, bed
from distributed import run
from peers import METHODS, PACKAGES, as_json, installed, measure, split

from dp_risk.cli import compose
from dp_risk.cli.scratch import scratch_place
from dp_risk.data.files import BUILTIN
from dp_risk.evaluation.stored import split_digest
from dp_risk.types import DpRiskError, Trust

OURS = "dp-risk"
STORED = Path(__file__).with_name("peers_utility.json")
EBM = ("dp_ebm scaled", "dp_ebm ranges")
KEPT = ("rounds", "spare_rounds", "q", "sigma", "learning_rate", "seconds")
Rows = list[dict[str, Any]]


def overrides(one: Bed, folder: Path) -> list[str]:
    """Return the overrides that name a bed as data; write its rows where they are not built in."""
    if one.name in BUILTIN:
        return [f"data={one.name}"]
    rows, schema = folder / f"{one.name}.parquet", folder / f"{one.name}.yaml"
    pq.write_table(one.table, rows)
    schema.write_text(one.schema.to_yaml())
    return [
        "data=file", f"data.name={one.name}", f"data.path={rows}", f"data.schema={schema}",
        f"data.delta={one.delta}", "data.public=true", "data.public_size=true",
        "data.stable_ids=true",
    ]  # fmt: skip


def ours(
    one: Bed,
    epsilons: Sequence[float],
    seeds: Sequence[int],
    extra: Sequence[str],
    scratch: Path,
) -> Rows:
    """Train dp-risk for each epsilon and seed.

    Raises
    ------
    DpRiskError
        If a run held out other rows than the other programs are tested on.
    """
    _, coded = one.coded()
    base = compose.settings([*overrides(one, scratch), *extra])
    rows = []
    for seed in seeds:
        _, test, digest = split(coded, seed)
        for epsilon in epsilons:
            asked = compose.with_privacy(
                base, seed=seed, epsilon=epsilon, trust=str(Trust.DISTRIBUTED)
            )
            found = run(asked, scratch)
            if found["holdout"] != split_digest(test.ids[:0], test.ids)[:16]:
                raise DpRiskError(f"bed {one.name}: the run has another split than its peers")
            row = {
                "bed": one.name, "method": OURS, "epsilon": epsilon, "seed": seed,
                **{name: found[name] for name in METRICS}, "split": digest[:16],
                **{name: found[name] for name in KEPT},
            }  # fmt: skip
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            rows.append(row)
    return rows


def others(
    one: Bed, epsilons: Sequence[float], seeds: Sequence[int], methods: Sequence[str]
) -> Rows:
    """Return the rows of the other programs: `methods` are fitted now, the rest is stored."""
    numbers = one.coded()[0].n_values
    fitted = [m for m in methods if numbers or m != "dp_ebm ranges"]
    rows = [
        {**row, "source": "this run"}
        for method in fitted
        for row in measure(one, method, epsilons, seeds)
    ]
    if not STORED.exists():
        return rows
    digests = {seed: split(one.coded()[1], seed)[2][:16] for seed in seeds}
    return rows + [
        {**row, "source": "stored"}
        for row in json.loads(STORED.read_text())["rows"]
        if row["bed"] == one.name
        and row["method"] not in methods
        and row["epsilon"] in (None, *epsilons)
        and row["split"] == digests.get(row["seed"])
    ]


def compared(rows: Rows) -> Rows:
    """Return a line for each bed, epsilon, metric and other method.

    Parameters
    ----------
    rows : list of dict
        Of `ours` and `others`.

    Returns
    -------
    list of dict
        ``bed, epsilon, metric, method``; ``source`` of its numbers; ``ours, theirs`` (means over
        the seeds that both have), ``margin``, ``spread`` and ``spread_of_margins`` (the deviation
        of the margins of single seeds; None with one seed), ``larger`` (whether the margin exceeds
        the spread), ``wins`` and ``seeds``.
    """
    by_seed: defaultdict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_seed[row["bed"], row["method"], row["epsilon"]][row["seed"]] = row
    lines = []
    for (name, method, epsilon), mine in by_seed.items():
        if method != OURS:
            continue
        for metric in METRICS:
            found = [
                _line(metric, mine, theirs, {"bed": name, "epsilon": epsilon, "method": other})
                for other in METHODS
                if (theirs := by_seed.get((name, other, epsilon if METHODS[other][1] else None)))
                and set(mine) & set(theirs)
            ]
            forms = [line for line in found if line["method"] in EBM]
            weaker = min(forms, key=lambda line: line["theirs"]) if len(forms) == 2 else None
            lines += [line for line in found if line is not weaker]
    return lines


def _line(
    metric: str, mine: dict[int, Any], theirs: dict[int, Any], about: dict[str, Any]
) -> dict[str, Any]:
    seeds = sorted(set(mine) & set(theirs))
    pairs = [(mine[seed][metric], theirs[seed][metric]) for seed in seeds]
    gaps = [a - b for a, b in pairs]
    sides = list(zip(*pairs, strict=True))
    spread = max(statistics.stdev(side) for side in sides) if len(seeds) > 1 else None
    margin = statistics.fmean(gaps)
    return {
        **about,
        "metric": metric,
        "source": theirs[seeds[0]]["source"],
        "ours": round(statistics.fmean(sides[0]), 5),
        "theirs": round(statistics.fmean(sides[1]), 5),
        "margin": round(margin, 5),
        "spread": None if spread is None else round(spread, 5),
        "spread_of_margins": round(statistics.stdev(gaps), 5) if len(seeds) > 1 else None,
        "larger": None if spread is None else margin > spread,
        "wins": sum(gap > 0 for gap in gaps),
        "seeds": len(seeds),
    }


def tables(rows: Rows, lines: Rows) -> str:
    """Return a table a metric: dp-risk's mean and deviation, then each other method's."""
    out = []
    for metric in METRICS:
        columns = list(dict.fromkeys(_column(line) for line in lines if line["metric"] == metric))
        out += ["", f"{metric}", "", f"| bed | epsilon | {OURS} | " + " | ".join(columns) + " |"]
        out.append("|---" * (3 + len(columns)) + "|")
        keys = dict.fromkeys((r["bed"], r["epsilon"]) for r in rows if r["method"] == OURS)
        for name, epsilon in keys:
            mine = [
                row[metric]
                for row in rows
                if (row["bed"], row["epsilon"], row["method"]) == (name, epsilon, OURS)
            ]
            cells = {
                _column(line): _cell(line)
                for line in lines
                if (line["bed"], line["epsilon"], line["metric"]) == (name, epsilon, metric)
            }
            deviation = f" ± {statistics.stdev(mine):.4f}" if len(mine) > 1 else ""
            own = f"{statistics.fmean(mine):.4f}{deviation}"
            shown = " | ".join(cells.get(column, "") for column in columns)
            out.append(f"| {name} | {epsilon:g} | {own} | {shown} |")
    return "\n".join(out)


def _column(line: dict[str, Any]) -> str:
    name = "dp_ebm" if line["method"] in EBM else line["method"]
    return f"{name} ({line['source']})"


def _cell(line: dict[str, Any]) -> str:
    if not METHODS[line["method"]][1]:
        return f"{line['theirs']:.4f}"
    form = f" {line['method'].split()[1]}" if line["method"] in EBM else ""
    if line["spread"] is None:
        return f"{line['theirs']:.4f}{form}, {line['margin']:+.4f}"
    verdict = ">" if line["larger"] else "not >"
    wins = f"{line['wins']}/{line['seeds']}"
    return (
        f"{line['theirs']:.4f}{form}, {line['margin']:+.4f} {verdict} {line['spread']:.4f}, {wins}"
    )


def summary(lines: Iterable[dict[str, Any]]) -> str:
    """Return one line a bed and private method: at how many epsilons dp-risk is clearly better."""
    groups: defaultdict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for line in lines:
        if METHODS[line["method"]][1] and line["larger"] is not None:
            groups[line["bed"], _column(line), line["metric"]].append(line["larger"])
    return "\n".join(
        f"{name}, {metric}: above {method} by more than the spread at {sum(found)} of "
        f"{len(found)} epsilons"
        for (name, method, metric), found in groups.items()
    )


def main() -> None:
    """Measure, print every run and the tables, and write rows as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beds", nargs="+", choices=BEDS, default=["spambase", "adult"])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", type=Path, help="folder of the public files (beds.py)")
    parser.add_argument("--peers", action="store_true", help="fit the others that are installed")
    parser.add_argument("--quick", action="store_true", help="one bed, one epsilon, one seed")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    if options.quick:
        options.beds, options.epsilons, options.seeds = options.beds[:1], [1.0], [0]
    torch.set_num_threads(1)
    methods = installed() if options.peers else []
    rows: Rows = []
    with scratch_place() as scratch:
        for name in options.beds:
            one = bed(name, options.data)
            rows += ours(one, options.epsilons, options.seeds, options.overrides, scratch)
            rows += others(one, options.epsilons, options.seeds, methods)
            if options.json:
                packages = (*PACKAGES, "dp-risk", "torch", "opacus")
                text = as_json(packages, rows=rows, compared=compared(rows))
                options.json.write_text(text)
    lines = compared(rows)
    print(tables(rows, lines))
    print(summary(lines))


if __name__ == "__main__":
    main()
