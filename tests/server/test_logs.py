"""What sites and server log is the same with one unit more, whatever that unit holds."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import clients.site
from clients.app import make_app
from dp_risk.types import FederationError
from server.grids import InProcessGrid
from server.rounds import execute
from tests import federation

from .test_job import job

# What may differ: digests and keys, released numbers, times, names of threads and folders.
_FREE = re.compile(r"[0-9a-f]{16,}|-?\d+\.\d+(e[+-]?\d+)?|0x[0-9a-f]+")
CANARY = "canary-4711"
UNITS = {
    "a plain one": {"age": 50.0, "amount": 10.0, "kind": "a", "risk": "yes"},
    "beyond all bounds": {"age": 1e300, "amount": -1e300, "kind": CANARY, "risk": "yes"},
    "nothing": {"age": None, "amount": None, "kind": None, "risk": None},
    "an unknown label": {"age": float("nan"), "amount": float("inf"), "kind": "", "risk": CANARY},
}


class Lines(logging.Handler):
    """Every record of every logger, as it would be printed with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.lines.append(self.format(record))


def logged(act: Callable[[], Any], folder: Path) -> list[str]:
    """Return what was logged and warned of, and what was raised, without what may differ."""
    handler, root = Lines(), logging.getLogger()
    levels = {
        logger: (logger.level, logger.disabled, logger.propagate)
        for logger in (root, *map(logging.getLogger, root.manager.loggerDict))
    }
    for logger in levels:
        logger.disabled, logger.propagate = False, True
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                act()
            except Exception as error:
                handler.lines.append(f"{type(error).__name__}: {error}")
    finally:
        root.removeHandler(handler)
        for logger, (level, disabled, propagate) in levels.items():
            logger.setLevel(level)
            logger.disabled, logger.propagate = disabled, propagate
    lines = [*handler.lines, *(str(w.message) for w in warned)]
    assert CANARY not in "\n".join(lines)
    # Sites answer side by side: their order is a matter of time.
    return sorted(_FREE.sub("#", line.replace(str(folder), "FOLDER")) for line in lines)


def run(folder: Path, unit: dict[str, Any] | None, app: Any = None, **policy: Any) -> list[str]:
    """Run a tiny federation, at whose second site there is one unit more."""
    names, trust = ("site-00", "site-01", "site-02"), policy.pop("trust", "local")
    (folder / "out").mkdir(parents=True)
    sites = {}
    for number, name in enumerate(names):
        table = federation.rows(120, seed=number)
        if unit is not None and number == 1:
            table = pa.concat_tables([table, pa.table({n: pa.array([v], table.schema.field(n).type)
                                                       for n, v in unit.items()})])  # fmt: skip
        rules = federation.policy(site=name, **policy)
        sites[number + 2] = str(federation.make_site(folder / name, table, rules))
    asked = job(folder / "out", memory=folder / "heads.json", sites=3)
    asked = replace(asked, privacy=replace(asked.privacy, trust=trust))
    grid = InProcessGrid(app or make_app(), sites)
    return logged(lambda: execute(grid, asked), folder)


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_logs_do_not_tell_whether_a_unit_is_there(tmp_path: Path, trust: str) -> None:
    policy = {"trust": trust, **(federation.together(3) if trust == "distributed" else {})}
    # What libraries say when they are first used.
    run(tmp_path / "first", None, **policy)
    expected = run(tmp_path / "without", None, **policy)
    assert (tmp_path / "without" / "out" / "run.json").exists()
    for number, unit in enumerate(UNITS.values()):
        assert run(tmp_path / f"with-{number}", unit, **policy) == expected


def test_the_text_of_an_error_in_a_mechanism_is_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(plan: Any, purpose: str, shard: Any, *rest: Any) -> Any:
        raise ValueError(f"cannot convert {CANARY}: {len(shard.train)} units")

    monkeypatch.setattr(clients.site, "compute", quoting)
    # How often the server asks again is a matter of time.
    expected = set(run(tmp_path / "without", None))
    refusals = [line for line in expected if "WARNING dp_risk.site: refused" in line]
    assert sum("ValueError" in line for line in refusals) == 1
    assert FederationError.__name__ in "".join(expected)
    assert set(run(tmp_path / "with", UNITS["a plain one"])) == expected
