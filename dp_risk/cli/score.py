"""`dp-risk score`: a run's model on new rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dp_risk.cli.training import load_model, scores
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.data.source import read_table
from dp_risk.models.additive import contributions
from dp_risk.types import ConfigurationError


def score(run: Path, rows: Path, out: Path) -> int:
    """Write scores, and for `additive` each feature's exact contribution in log-odds.

    Returns
    -------
    int
        Number of rows, in the order of the input.

    Raises
    ------
    ConfigurationError
        If the run or the rows cannot be read.
    """
    if not (run / "model.json").exists():
        raise ConfigurationError(f"{run}: no model here")
    about, weights = load_model(run)
    schema = Schema.from_dict(about["schema"])
    coding = Coding(schema=schema)
    table = read_table(rows)
    coded = coding.encode(table, require_label=False)
    columns = {}
    if schema.id and schema.id in table.column_names:
        columns[schema.id] = table[schema.id]
    columns["score"] = pa.array(scores(run, coded))
    if about["model"] == "additive":
        scale = float(about["options"]["value_scale"])
        for feature, values in contributions(weights, coding, coded, scale).items():
            columns[f"contribution_{feature}"] = pa.array(values.astype(np.float32))
    temporary = out.with_name(out.name + ".part")
    try:
        pq.write_table(pa.table(columns), temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise ConfigurationError(f"{out}: {error.strerror or error}") from None
    return len(coded)
