"""Labels of private rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dp_risk.data.columns import public_texts, to_text
from dp_risk.data.schema import Schema


def read_labels(table: Any, schema: Schema) -> NDArray[np.float32]:
    """Return the label of every row.

    Parameters
    ----------
    table : pyarrow.Table
        Private rows; the label column may be absent.
    schema : Schema
        Says which values mean 1 and 0.

    Returns
    -------
    ndarray of float32, shape (n,)
        0, 1, or NaN for a missing or unknown label.
    """
    label = schema.label
    labels = np.full(table.num_rows, np.nan, dtype=np.float32)
    if label.column not in table.column_names:
        return labels
    column = table[label.column]
    declared = {*label.positive, *label.negative}
    text = to_text(column, tuple(token for token in schema.missing if token not in declared))
    if label.negative:
        labels[_is_in(text, public_texts(label.negative, column.type))] = 0.0
    else:
        labels[np.asarray(text.is_valid().to_numpy(zero_copy_only=False))] = 0.0
    labels[_is_in(text, public_texts(label.positive, column.type))] = 1.0
    return labels


def _is_in(text: Any, values: list[str]) -> NDArray[np.bool_]:
    found = pc.is_in(text, value_set=pa.array(values, pa.large_string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)
