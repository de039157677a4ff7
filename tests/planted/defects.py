"""What a planted defect is, and an audit that must catch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dp_risk.audit.findings import Findings
from dp_risk.cli.audit.audit import examine
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.compose import settings
from dp_risk.cli.scratch import scratch_place
from tests import federation

Patch = Callable[[pytest.MonkeyPatch], None]
Data = Callable[[], tuple[pa.Table, dict[str, Any]]]
_ROWS, _RECORDS = 300, 3


def records() -> tuple[pa.Table, dict[str, Any]]:
    """Return rows of which each is a unit."""
    return federation.rows(_ROWS), federation.SCHEMA


def accounts() -> tuple[pa.Table, dict[str, Any]]:
    """Return rows of accounts, a few to each."""
    holder = pa.array([f"holder {number // _RECORDS}" for number in range(_ROWS)])
    table = federation.rows(_ROWS).append_column("holder", holder)
    return table, {**federation.SCHEMA, "account": "holder"}


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A small change of the real code, and the check that must notice it.

    Parameters
    ----------
    name : str
        What is wrong, in words; the row of the matrix in docs/audit.md.
    checks : sequence of str
        Checks that must all fail; others may.
    plant : callable
        Patches the code; undone by pytest.
    overrides : sequence of str
        Configuration in which it shows.
    data : callable
        Returns the rows that are audited, and their schema.
    fast : bool
        Whether `make test` tries it; `make test-all` tries all.
    """

    name: str
    checks: Sequence[str]
    plant: Patch
    overrides: Sequence[str] = ()
    data: Data = records
    fast: bool = False

    def audited(self, monkeypatch: pytest.MonkeyPatch) -> Findings:
        """Plant the defect and audit."""
        self.plant(monkeypatch)
        return audited(self.overrides, data=self.data)


def audited(overrides: Sequence[str], *, data: Data = records) -> Findings:
    """Audit a tiny public data set in this process, with the quick profile."""
    table, schema = data()
    with scratch_place() as folder:
        pq.write_table(table, folder / "tiny.parquet")
        (folder / "tiny.schema.yaml").write_text(yaml.safe_dump(schema))
        tiny = [
            "data=file",
            f"data.path={folder / 'tiny.parquet'}",
            f"data.schema={folder / 'tiny.schema.yaml'}",
            "data.delta=1e-5",
            "data.public=true",
            "partition=iid",
            "federation.sites=2",
            "federation.rounds=8",
            "privacy.epsilon=2",
            "audit=quick",
        ]
        asked = settings([*tiny, *overrides])
        return examine(Scratch(settings=asked, folder=folder / "scratch"), lambda *_: None)
