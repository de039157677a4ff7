"""The test beds of the benchmarks: public tables with their schemas, by name.

Two are built in. The others are read from a folder of public files, whose schemas lie in
`benchmarks/schemas`:

    uci_credit_default.parquet  archive.ics.uci.edu, data set 350
    phishing_87.parquet         data.mendeley.com, c2gw7fy2j4 (version 3)
    pan_wvc_en_edits.parquet    PAN-WVC-11 of webis.de, its English edits
    youtube_spam.parquet        archive.ics.uci.edu, data set 380
    tolokers.npz                github.com/yandex-research/heterophilous-graphs

Thinned beds keep every negative row and few positive ones, as in most risk data.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from dp_risk.data.coding import Coded, Coding
from dp_risk.data.labels import read_labels
from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table
from dp_risk.data.split import holdout_mask, public_key
from dp_risk.evaluation.metrics import evaluate
from dp_risk.types import ConfigurationError

HOLDOUT = 0.2
METRICS = {"auroc": "auroc", "auprc": "auprc", "recall_at_1pct_fpr": "recall_at_fpr_1pct"}
FILES = {
    "uci": "uci_credit_default.parquet",
    "phishing": "phishing_87.parquet",
    "pan": "pan_wvc_en_edits.parquet",
    "youtube": "youtube_spam.parquet",
    "tolokers": "tolokers.npz",
}
THINNED = {
    "adult_3pct": ("adult", 0.03),
    "adult_05pct": ("adult", 0.005),
    "uci_3pct": ("uci", 0.03),
    "uci_05pct": ("uci", 0.005),
}
BEDS = ("spambase", "adult", *FILES, *THINNED)
TOLOKERS = (
    "approved_rate", "skipped_rate", "expired_rate", "rejected_rate", "education",
    "english_profile", "english_tested",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Bed:
    """A public table to train and test on.

    Parameters
    ----------
    name : str
        One of `BEDS`.
    schema : Schema
        Its public description.
    table : pyarrow.Table
        Its rows.
    delta : float
        The delta of every method on it.
    """

    name: str
    schema: Schema
    table: Any
    delta: float

    def coded(self) -> tuple[Coding, Coded]:
        """Return the coding of the schema and the coded rows."""
        coding = Coding(schema=self.schema)
        return coding, coding.encode(self.table)


def bed(name: str, data: Path | None = None) -> Bed:
    """Return one bed.

    Parameters
    ----------
    name : str
        One of `BEDS`.
    data : Path, optional
        The folder of the public files; the built-in data needs none.

    Raises
    ------
    ConfigurationError
        If there is no such bed, or its file is not in `data`.
    """
    if name in THINNED:
        source, share = THINNED[name]
        whole = bed(source, data)
        table = thinned(whole.table, whole.schema, share)
        return Bed(name=name, schema=whole.schema, table=table, delta=whole.delta)
    if name in FILES:
        if data is None:
            raise ConfigurationError(f"bed {name}: name the folder of the public files (--data)")
        file = data / FILES[name]
        schema = Schema.from_yaml(
            (Path(__file__).parent / "schemas" / file.stem).with_suffix(".yaml")
        )
        table = tolokers(file) if name == "tolokers" else read_table(file, schema.columns)
        return Bed(name=name, schema=schema, table=table, delta=1e-5)
    file = builtin_path(name)
    schema = Schema.from_yaml(file.with_suffix(".yaml"))
    delta = {"spambase": 1e-5, "adult": 1e-6}[name]
    return Bed(name=name, schema=schema, table=read_table(file, schema.columns), delta=delta)


def thinned(table: Any, schema: Schema, share: float) -> Any:
    """Return a table with so few of its positive rows that they make up `share` of it.

    The choice is random with a fixed seed; a smaller share keeps a subset.
    """
    labels = read_labels(table, schema)
    positive = np.random.default_rng(0).permutation(np.flatnonzero(labels == 1))
    kept = round(share / (1 - share) * np.count_nonzero(labels == 0))
    chosen = np.concatenate([np.flatnonzero(labels == 0), positive[:kept]])
    return table.take(pa.array(np.sort(chosen)))


def tolokers(file: Path) -> Any:
    """Return the nodes of the Tolokers graph as a table; its edges are left out."""
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such file")
    with np.load(file) as arrays:
        nodes, labels = arrays["node_features"], arrays["node_labels"]
    # Columns 4 to 7 say which of four levels of education a worker has.
    columns = [*nodes[:, :4].T, nodes[:, 4:8].argmax(1), *nodes[:, 8:].T.astype(np.int64)]
    content = dict(zip(TOLOKERS, columns, strict=True))
    return pa.table({"node": np.arange(len(labels)), **content, "banned": labels})


def train_mask(ids: NDArray[np.bytes_], seed: int) -> NDArray[np.bool_]:
    """Return which rows the simulated sites of a run with this seed train on, all together."""
    return ~holdout_mask(ids, public_key(seed), HOLDOUT)


def metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Return the metrics of every benchmark of utility, as `METRICS` names them."""
    found = evaluate(labels, scores, bootstrap=0)
    return {name: round(found[key].value, 6) for name, key in METRICS.items()}


def save(one: Bed, folder: Path) -> None:
    """Write the coded rows of a bed and five splits as ``NAME.npz``."""
    coding, coded = one.coded()
    names = list(one.schema.features)
    ranges = [coding.feature_codes(name) for name in names]
    # Code 0 is padding and belongs to no feature.
    owner, place = np.full((2, coding.n_codes), -1, dtype=np.int32)
    for number, codes in enumerate(ranges):
        owner[codes.start : codes.stop] = number
        place[codes.start : codes.stop] = np.arange(len(codes))
    np.savez_compressed(
        folder / f"{one.name}.npz",
        codes=coded.codes,
        values=coded.values,
        labels=coded.labels,
        n_codes=coding.n_codes,
        slot_names=np.array(coding.slot_names, dtype=str),
        value_names=np.array(coding.value_names, dtype=str),
        feature_names=np.array(names, dtype=str),
        code_feature=owner,
        code_place=place,
        delta=one.delta,
        **{f"train{seed}": train_mask(coded.ids, seed) for seed in range(5)},
    )


def main() -> None:
    """Print the sizes of the beds; write their coded rows where a folder is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beds", nargs="+", choices=BEDS, default=["spambase", "adult"])
    parser.add_argument("--data", type=Path, help="folder of the public files")
    parser.add_argument("--out", type=Path, help="folder for the coded rows, NAME.npz")
    options = parser.parse_args()
    for name in options.beds:
        one = bed(name, options.data)
        coding, coded = one.coded()
        print(
            f"{name}: {len(coded)} rows, {coded.labels.mean():.4f} positive, "
            f"{coding.slots} slots, {coding.n_codes} codes, {coding.n_values} values, "
            f"{train_mask(coded.ids, 0).sum()} train with seed 0, delta {one.delta:g}"
        )
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            save(one, options.out)


if __name__ == "__main__":
    main()
