"""Peak memory above the codes, of DP-SGD on memory-mapped shards of up to ten million rows.

Each row is a process of its own that maps stored arrays, takes steps of one expected batch, and
reads off the largest amount of memory that is not backed by a file (`RssAnon`): what is mapped
costs nothing when memory is short. `before` is what the process holds with everything imported and
the data opened. The peer is Opacus' DPDataLoader over a TensorDataset of the same mapped arrays.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --json figures.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from synthetic_shard import SCHEMA, make

from clients.shard import Shard
from dp_risk.types import Split

BATCH = 4000
METHODS = ("dp-risk", "Opacus DPDataLoader")


def anonymous() -> float:
    """Return the memory of this process that is not backed by a file, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("this system does not say how much memory is anonymous")


class Peak:
    """The largest anonymous memory while it is watched, every millisecond."""

    def __enter__(self) -> Peak:
        self.before = self.most = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.most = max(self.most, anonymous())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def ours(shard: Shard, rows: int, steps: int) -> dict[str, float]:
    """Take DP-SGD steps on a shard."""
    from dp_risk import models
    from dp_risk.data.coding import Coding
    from dp_risk.privacy.dpsgd import DPSGD
    from dp_risk.privacy.randomness import Randomness

    module = models.build("additive", {}, Coding(schema=SCHEMA), 0)
    units = shard.units(Split.TRAIN, None)
    mechanism = DPSGD(
        clip_norm=1.0, noise_multiplier=2.0, sampling_rate=BATCH / rows, steps=steps,
        local_rate=1e-3,
    )  # fmt: skip
    with Peak() as peak:
        start = time.perf_counter()
        mechanism((module, units), Randomness.system())
        seconds = time.perf_counter() - start
    return {"before": peak.before, "peak": peak.most, "ms a step": 1e3 * seconds / steps}


def opacus(shard: Shard, rows: int, steps: int) -> dict[str, float]:
    """Read as many batches through Opacus' loader; no model takes part."""
    from opacus.data_loader import DPDataLoader
    from torch.utils.data import TensorDataset

    coded = shard.train
    data = TensorDataset(*map(torch.from_numpy, (coded.codes, coded.values, coded.labels)))
    loader = DPDataLoader(data, sample_rate=BATCH / rows)
    with Peak() as peak:
        start = time.perf_counter()
        for _ in itertools.islice(loader, steps):
            pass
        seconds = time.perf_counter() - start
    return {"before": peak.before, "peak": peak.most, "ms a step": 1e3 * seconds / steps}


def measured(shard: Shard, method: str, rows: int, steps: int) -> dict[str, Any]:
    """Return a row."""
    torch.set_num_threads(1)
    found = (ours if method == METHODS[0] else opacus)(shard, rows, steps)
    return {
        "what": f"{rows} rows", "method": method, "value": round(found["peak"]), "unit": "MB",
        "above before": round(found["peak"] - found["before"]),
        "codes": round(shard.train.codes.nbytes / 1e6), "ms a step": round(found["ms a step"], 1),
    }  # fmt: skip


def main() -> None:
    """Measure and print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="fewer steps, up to a million rows")
    options = parser.parse_args()
    sizes = (10**5, 10**6) if options.quick else (10**5, 10**6, 10**7)
    processes, found = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            shard = make(Path(folder) / str(rows), rows)
            for method in METHODS:
                steps = 10 if options.quick or method != METHODS[0] else 300
                with processes.Pool(1) as pool:
                    row = pool.apply(measured, (shard, method, rows, steps))
                found.append(row)
                print(*row.values(), sep=" | ", flush=True)
            for row in found[-len(METHODS) :]:
                row["ratio"] = round(row["value"] / found[-len(METHODS)]["value"], 2)
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
