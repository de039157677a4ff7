"""Who is a unit, and on which side: fixed when the ledger is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clients.partition import partition
from clients.site import KEY, SITE, Site, founders
from dp_risk.data.schema import Schema
from dp_risk.privacy import keys
from dp_risk.types import Refused
from tests.federation import SCHEMA, make_site, policy, rows

IDS = {**SCHEMA, "id": "who", "account": "owner"}


def with_ids(folder: Path, **rules: Any) -> Path:
    """A site whose rows have ids, some of them missing."""
    count = 60
    table = rows(count)
    for name, many in (("who", 60), ("owner", 9), ("other", 7)):
        ids = [f"{name}-{i % many}" if i % 5 else "?" for i in range(count)]
        table = table.append_column(name, pa.array(ids))
    make_site(folder, table, policy(**rules))
    pq.write_table(table, folder / "rows.parquet")
    changed(folder, schema=Schema.from_dict(IDS).to_dict())
    return folder


def changed(folder: Path, **changes: Any) -> None:
    said = yaml.safe_load((folder / SITE).read_text())
    (folder / SITE).write_text(yaml.safe_dump({**said, **changes}, sort_keys=False))


def opened(folder: Path) -> None:
    Site.open(folder).ledger.close_file()


def schema(**changes: Any) -> dict[str, Any]:
    said = json.loads(json.dumps({**Schema.from_dict(IDS).to_dict(), **changes}))
    return {"schema": said}


ACCOUNTS = {"unit": "account", "max_records_per_account": 5}


@pytest.mark.parametrize("rules", [{}, ACCOUNTS, {"stable_ids": False}], ids=str)
def test_a_changed_split_or_id_closes_the_site(tmp_path: Path, rules: dict[str, Any]) -> None:
    folder = with_ids(tmp_path / "a", **rules)
    opened(folder)
    about, key = (folder / SITE).read_text(), (folder / KEY).read_text()
    column = "account" if rules is ACCOUNTS else "id"
    for part, changes in {
        "holdout fraction": {"holdout": 0.95},
        "column of ids": schema(**{column: "other"}),
        "list of missing tokens": schema(missing=["", "?", "owner-3"]),
    }.items():
        changed(folder, **changes)
        with pytest.raises(Refused, match=f"the {part} changed since") as error:
            Site.open(folder)
        assert "\n" not in str(error.value)
        (folder / SITE).write_text(about)
    (folder / KEY).write_text("09" * 32)
    with pytest.raises(Refused, match="the split key changed since") as error:
        Site.open(folder)
    assert "09" * 8 not in str(error.value)
    assert key not in str(error.value)
    (folder / KEY).write_text(key)
    opened(folder)


def test_what_moves_no_unit_may_change(tmp_path: Path) -> None:
    folder = with_ids(tmp_path / "a")
    opened(folder)
    features = dict(list(SCHEMA["features"].items())[:2])  # type: ignore[attr-defined]
    for changes in (
        schema(features=features),
        schema(account="other"),
        schema(missing=list(reversed(Schema.from_dict(IDS).missing))),
    ):
        changed(folder, **changes)
        opened(folder)


@pytest.mark.parametrize("stable", [True, False])
def test_without_ids_rows_are_recognised_by_their_columns(tmp_path: Path, stable: bool) -> None:
    folder = make_site(tmp_path / "a", rows(40), policy(stable_ids=stable))
    opened(folder)
    said = yaml.safe_load((folder / SITE).read_text())["schema"]
    for features in (
        dict(list(said["features"].items())[:2]),
        dict(reversed(said["features"].items())),
    ):
        changed(folder, schema={**said, "features": features})
        if stable:
            with pytest.raises(Refused, match=r"the list of columns .* changed since"):
                Site.open(folder)
        else:
            # One account pays for both sides.
            opened(folder)
    # Tokens and bins change no content.
    bins = {**said["features"], "age": {**said["features"]["age"], "bins": 9}}
    changed(folder, schema={**said, "features": bins, "missing": ["none"]})
    opened(folder)


def test_the_digests_say_nothing_and_read_no_row(tmp_path: Path) -> None:
    folder = make_site(tmp_path / "a", rows(40), policy())
    (folder / "rows.parquet").unlink()
    rules, shard, account, key = founders(folder)
    assert account.partition == partition(rules, shard, key)
    other = keys.load_or_create(tmp_path / "other.key")
    again = partition(rules, shard, other)
    for part, digest in account.partition.items():
        assert len(bytes.fromhex(digest)) == 32
        # Whoever guesses the fraction cannot check the guess without the site's key.
        assert again[part] != digest
