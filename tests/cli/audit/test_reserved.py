"""Reserved codes: words for each of them, and units that land where they are said to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clients.site import founders
from dp_risk.cli.audit.reserved import Reserved, plant, side, table_of, units_of
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.compose import settings
from dp_risk.data.schema import Schema
from dp_risk.types import Split
from tests import federation

PLAIN = Schema.from_dict(federation.SCHEMA)


def scratch(place: Path, ids: Any = None, *overrides: str, **roles: str) -> Scratch:
    table = federation.rows(60)
    if ids is not None:
        table = table.append_column("who", ids)
    pq.write_table(table, place / "tiny.parquet")
    (place / "tiny.schema.yaml").write_text(yaml.safe_dump({**federation.SCHEMA, **roles}))
    asked = settings(
        [
            *("data=file", f"data.path={place / 'tiny.parquet'}"),
            *(f"data.schema={place / 'tiny.schema.yaml'}", "data.delta=1e-5", "data.public=true"),
            *("partition=iid", "federation.sites=2", "privacy.epsilon=2", "audit=quick"),
            *overrides,
        ]
    )
    return Scratch(settings=asked, folder=place / "scratch")


def planted(scratch: Scratch, *, codes: int = 24, records: int = 1) -> tuple[Path, Reserved, Any]:
    reserved = scratch.reserved(codes=codes, slots=8)
    _, [site] = scratch.sites("one", reserved, scratch.rows(None, seed=0), sites=1)
    words = dict.fromkeys(reserved.words(reserved.codes).values(), reserved.labels[1])
    return site, reserved, plant(site, reserved, words, records=records)


@given(codes=st.integers(1, 64), slots=st.integers(1, 5), data=st.data())
def test_words_hit_exactly_the_codes_that_are_wanted(codes: int, slots: int, data: Any) -> None:
    reserved = Reserved.of(PLAIN, codes=codes, slots=slots)
    assert len(reserved.codes) == codes
    wanted = data.draw(st.sets(st.sampled_from(list(reserved.codes))))
    words = reserved.words(wanted)
    assert set(words) == wanted
    assert len(set(words.values())) == len(words)
    table = pa.table({**federation.rows(1).to_pydict(), reserved.column: pa.array([""])})
    for code, word in words.items():
        row = reserved.rows(table, {word: "yes"}, records=1)
        assert reserved.coding.encode(row).codes.max() == code


def test_no_ordinary_row_has_a_reserved_code(tmp_path: Path) -> None:
    asked = scratch(tmp_path)
    reserved = asked.reserved(codes=50, slots=3)
    _, sites = asked.sites("plain", reserved, asked.rows(None, seed=0))
    for site in sites:
        shard = founders(site)[1]
        for split in (Split.TRAIN, Split.HOLDOUT):
            assert units_of(shard, reserved, split) == {}


def test_rows_of_canaries_land_where_they_are_said_to(tmp_path: Path) -> None:
    site, reserved, training = planted(scratch(tmp_path))
    words = reserved.words(reserved.codes)
    shard = founders(site)[1]
    train = units_of(shard, reserved, Split.TRAIN)
    held = units_of(shard, reserved, Split.HOLDOUT)
    assert {words[code] for code in train} == set(training)
    assert set(train) | set(held) == set(reserved.codes)
    assert not set(train) & set(held)
    assert train
    assert held
    # Every slot holds the unit's own code, in the row that a step reads.
    batch = shard.units(Split.TRAIN, None).batch(np.array(list(train.values())))
    codes = batch.inputs[0].numpy()
    assert (codes == np.array(list(train))[:, None]).all()
    assert (batch.inputs[1].numpy() == 0).all()
    assert (batch.labels.numpy() == 1).all()
    # The rows that were there stay as they were.
    assert len(shard.train) + len(shard.holdout_units) == 60 + len(words)


KINDS = {
    "small integers": pa.array(np.arange(60, dtype=np.int32)),
    "integers": pa.array(np.arange(60) * 1_000_003),
    "numbers": pa.array(np.arange(60) / 2),
    "text": pa.array([f"person {i}" for i in range(60)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_any_type_are_new_ones(tmp_path: Path, kind: str) -> None:
    site, reserved, training = planted(scratch(tmp_path, KINDS[kind], id="who"))
    table = table_of(site)
    assert table.schema.field("who").type == KINDS[kind].type
    assert len(set(table["who"].to_pylist())) == table.num_rows == 60 + 24
    assert len(units_of(founders(site)[1], reserved, Split.TRAIN)) == len(training)


@pytest.mark.parametrize("kind", KINDS)
def test_an_account_of_a_canary_holds_all_its_rows(tmp_path: Path, kind: str) -> None:
    # Three rows an account, a third of the ids.
    ids = KINDS[kind].take(pa.array(np.arange(60) // 3))
    asked = scratch(tmp_path, ids, "privacy.unit=account", account="who")
    site, reserved, training = planted(asked, records=5)
    shard = founders(site)[1]
    found = units_of(shard, reserved, Split.TRAIN)
    assert len(found) == len(training)
    units = shard.units(Split.TRAIN, None)
    assert (units.sizes(np.array(list(found.values()))) == 5).all()


def test_the_side_of_a_row_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    asked = scratch(tmp_path)
    reserved = asked.reserved(codes=24, slots=8)
    _, [site] = asked.sites("one", reserved, asked.rows(None, seed=0), sites=1)
    words = dict.fromkeys(reserved.words(reserved.codes).values(), "yes")
    rows = reserved.rows(table_of(site), words, records=1)
    whole = side(site, reserved, rows)
    apart = [side(site, reserved, rows.slice(i, 1))[0] for i in range(rows.num_rows)]
    assert whole.tolist() == apart
