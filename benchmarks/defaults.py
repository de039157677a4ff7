"""How the constants of the defaults were derived, and how far the defaults are from a search.

Without `--search` every setting of some small grids trains on every bed, at four epsilons. For each
group of beds the setting is chosen on all other groups: the least mean regret, which is what a
setting's score lacks to the best of the grid. Its regret on the group left out is what the rule of
choosing costs on data that it has not seen. A score is the mean of AUROC and AUPRC; AUROC alone
where .5 % are positive.

With `--search N` so many random settings train at epsilon 1, and the defaults are set beside the
best of them **on the test rows**.

    PYTHONPATH=. python benchmarks/defaults.py --data FOLDER --json FILE
    PYTHONPATH=. python benchmarks/defaults.py --data FOLDER --search 100 --json FILE
    PYTHONPATH=. python benchmarks/defaults.py --quick

Rows lie in one place and one process trains (`pooled.py`).
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from beds import BEDS, FILES, THINNED, bed
from peers import as_json
from pooled import KERNELS, Pool, Setting

EPSILONS = (0.5, 1.0, 4.0, 8.0)
PACKAGES = ("numpy", "scipy", "torch", "pyarrow")
DEFAULT = Setting()
GRIDS = {
    "walk, slope": [
        Setting(walk=w, slope=s) for w, s in product((4.0, 6.0, 8.0, 12.0), (0.5, 1.0, 4.0))
    ],
    "ridge": [Setting(ridge=r) for r in (0.002, 0.004, 0.008, 0.03)],
    "kernel": [Setting(kernel=k) for k in KERNELS],
    "clip norm": [Setting(clip_norm=c) for c in (1.0, 2.0)],
    "rounds": [Setting(rounds=r) for r in (53, 80)],
    "plain": [DEFAULT, Setting(plain=True)],
}


def trained(
    name: str,
    data: Path | None,
    settings: Iterable[Setting],
    epsilons: Sequence[float],
    seeds: Sequence[int],
    draws: int,
) -> list[dict[str, Any]]:
    """Return a row for each setting, epsilon, seed of the split and draw of noise on one bed."""
    one, rows, started = bed(name, data), [], time.process_time()
    for seed in seeds:
        pool = cache(lambda bins, seed=seed: Pool(one, bins, seed))
        for setting, epsilon, draw in product(dict.fromkeys(settings), epsilons, range(draws)):
            asked = {"bed": name, "epsilon": epsilon, "seed": seed, "draw": draw}
            found = pool(setting.bins)(setting, epsilon, draw)
            rows.append({**asked, "setting": setting.said(), **found})
    seconds = time.process_time() - started
    print(f"{name}: {len(rows)} trainings, {seconds:.0f} s of processor time", flush=True)
    return rows


def group(name: str) -> str:
    """Return the data set that a bed was made from."""
    return THINNED.get(name, (name,))[0]


def regrets(rows: list[dict[str, Any]], grid: Sequence[Setting]) -> dict[Setting, dict[str, float]]:
    """Return the mean regret of every setting of a grid on every group of beds."""
    scores: defaultdict[tuple[str, float], defaultdict[str, list[float]]]
    scores = defaultdict(lambda: defaultdict(list))
    for row in rows:
        # AUPRC of two dozen positives in the test is noise.
        names = ("auroc",) if row["bed"].endswith("_05pct") else ("auroc", "auprc")
        score = float(np.mean([row[name] for name in names]))
        scores[row["bed"], row["epsilon"]][row["setting"]].append(score)
    lacks: defaultdict[Setting, defaultdict[str, list[float]]]
    lacks = defaultdict(lambda: defaultdict(list))
    for (name, _), found in scores.items():
        means = {setting: float(np.mean(found[setting.said()])) for setting in grid}
        for setting, mean in means.items():
            lacks[setting][group(name)].append(max(means.values()) - mean)
    return {
        setting: {name: float(np.mean(lack)) for name, lack in by_group.items()}
        for setting, by_group in lacks.items()
    }


def left_out(lacks: dict[Setting, dict[str, float]]) -> list[dict[str, Any]]:
    """Return for each group what the other groups choose, and its regret here."""
    groups = next(iter(lacks.values()))
    lines = []
    for held in groups if len(groups) > 1 else ():
        chosen = min(lacks, key=lambda s: np.mean([r for g, r in lacks[s].items() if g != held]))
        lines.append(
            {
                "left out": held, "chosen": chosen.said(), "regret": round(lacks[chosen][held], 4),
                "regret of default": round(lacks[DEFAULT][held], 4),
            }
        )  # fmt: skip
    return lines


def drawn(count: int) -> list[Setting]:
    """Return random settings, from a fixed seed."""
    rng = np.random.default_rng(0)

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return [
        Setting(
            walk=between(2, 20),
            ridge=between(0.001, 0.1),
            slope=between(0.1, 4),
            rounds=round(between(20, 200)),
            clip_norm=between(0.3, 4),
            momentum=float(rng.choice([0, 0.5, 0.8, 0.9, 0.95])),
            averaging=float(rng.choice([0, 0.8, 0.9, 0.95])),
            learning_rate=between(0.05, 10) if (plain := bool(rng.random() < 0.5)) else None,
            plain=plain,
            bins=[None, 8, 16, 32][rng.integers(4)],
        )
        for _ in range(count)
    ]


def gaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each bed and metric the default, the best setting and what lies between."""
    found: defaultdict[tuple[str, str], defaultdict[str, list[float]]]
    found = defaultdict(lambda: defaultdict(list))
    for row, metric in product(rows, ("auroc", "auprc")):
        found[row["bed"], metric][row["setting"]].append(row[metric])
    lines = []
    for (name, metric), by_setting in found.items():
        means = {setting: float(np.mean(values)) for setting, values in by_setting.items()}
        ours, best = means.pop("default"), max(means, key=lambda setting: means[setting])
        lines.append(
            {
                "bed": name, "metric": metric, "default": round(ours, 4),
                "best": round(means[best], 4), "gap": round(means[best] - ours, 4),
                "better": sum(mean > ours for mean in means.values()), "setting": best,
            }
        )  # fmt: skip
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return rows with the same keys as a Markdown table."""
    out = ["| " + " | ".join(lines[0]) + " |", "|---" * len(lines[0]) + "|"]
    out += ["| " + " | ".join(str(value) for value in line.values()) + " |" for line in lines]
    return "\n".join(["", *out])


def main() -> None:
    """Train, print the tables and write them with all rows as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beds", nargs="+", choices=BEDS)
    parser.add_argument("--data", type=Path, help="folder of the public files")
    parser.add_argument("--epsilons", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--draws", type=int, help="of the noise, for each split (2)")
    parser.add_argument("--search", type=int, metavar="N", help="try N random settings")
    parser.add_argument("--quick", action="store_true", help="one bed, two settings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    files = {name for name in BEDS if group(name) in FILES}
    beds, grids = [n for n in BEDS if options.data or n not in files], GRIDS
    epsilons, seeds, draws = list(EPSILONS), [0, 1, 2], 2
    if options.search:
        beds = [name for name in ("spambase", "adult", "uci") if name in beds]
        grids, epsilons, seeds = {"search": [*drawn(options.search), DEFAULT]}, [1.0], [0, 1]
    if options.quick:
        beds, seeds, draws = ["spambase"], [0], 1
        grids = {name: [*grid[:1], DEFAULT] for name, grid in list(grids.items())[:1]}
    rows = []
    for name in options.beds or beds:
        asked = options.epsilons or epsilons, options.seeds or seeds, options.draws or draws
        rows += trained(name, options.data, [s for g in grids.values() for s in g], *asked)
    tables = {}
    for name, grid in grids.items():
        if options.search:
            tables[name] = gaps(rows)
            continue
        lacks = regrets(rows, grid)
        tables[name] = [
            {
                name: s.said(), **{g: round(r, 4) for g, r in found.items()},
                "all": round(float(np.mean(list(found.values()))), 4),
            }
            for s, found in lacks.items()
        ]  # fmt: skip
        tables[f"{name}, left out"] = left_out(lacks)
    for lines in tables.values():
        if lines:
            print(table(lines))
    if options.json:
        options.json.write_text(as_json(PACKAGES, **tables, rows=rows))


if __name__ == "__main__":
    main()
