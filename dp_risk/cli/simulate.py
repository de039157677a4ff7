"""Simulated sites: one file dealt out to folders, each with its policy, split key and ledger."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clients import signing
from clients.policy import Policy
from clients.signing import POLICY
from clients.site import Site
from dp_risk.cli.settings import Settings
from dp_risk.cli.sizes import split_key, training_units
from dp_risk.data.coding import Coding
from dp_risk.data.partition import whole_accounts
from dp_risk.data.source import read_table
from dp_risk.models import REGISTRY
from dp_risk.privacy import keys
from dp_risk.privacy.planning import check_delta
from dp_risk.privacy.release import digest
from dp_risk.privacy.schedule import PURPOSES
from dp_risk.types import Adjacency, ConfigurationError, RandomnessKind, Refused, Trust, Unit
from server.job import four_of_five

_FEDERATION = "federation.yaml"
# The cap of a simulated site's policy: a plan's own is what bounds an account.
_MAX_RECORDS = 10_000
# Which override a field of the dealing comes from.
_KEYS = {
    "unit": "privacy.unit",
    "stable_ids": "data.stable_ids",
    "seed": "partition.seed",
    "alpha": "partition.alpha",
    "column": "partition.column",
    "sites": "federation.sites",
    "holdout": "data.holdout",
    "delta": "privacy.delta",
    "lifetime_epsilon": "sites.lifetime_epsilon",
    "public": "data.public",
    "public_size": "data.public_size",
}


def federation_folder(settings: Settings) -> Path:
    """Return where the simulated sites of a data set live.

    Public data may be dealt out anew for every partition; private data has one federation a
    dataset id, so that dealing it out again never opens a fresh budget.

    Raises
    ------
    Refused
        If data that sites hold as private is now called public.
    """
    name = settings.data.dataset
    if settings.data.public:
        private = Path(settings.sites.dir) / name
        if (private / _FEDERATION).exists():
            raise Refused(
                f"data.public: {private} holds these rows as private; calling them public now "
                "would step around their ledgers"
            )
        name = f"{name}-{digest(_dealing(settings))[:8]}"
    return Path(settings.sites.dir) / name


def _dealing(settings: Settings) -> dict[str, Any]:
    partition = dataclasses.asdict(settings.partition)
    return {
        "dataset": settings.data.dataset,
        "unit": settings.privacy_values["unit"],
        "stable_ids": settings.data.keeps_ids(str(settings.privacy_values["unit"])),
        "partition": type(settings.partition).__name__,
        **partition,
        "sites": settings.federation.sites,
        "holdout": settings.data.holdout,
        "delta": float(settings.privacy_values["delta"]),
        "lifetime_epsilon": settings.sites.lifetime_epsilon,
        "public": settings.data.public,
        "public_size": settings.data.public_size,
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sites of a federation for one run; the lock goes with the process.

    Raises
    ------
    ConfigurationError
        If another run holds them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(f"{folder}: another run is using these sites") from None
        yield


def make_sites(settings: Settings, folder: Path, *, lifetime_epsilon: float) -> list[Path]:
    """Return the folders of the simulated sites, made when they are not there.

    Raises
    ------
    Refused
        If the folder holds sites that were dealt out in another way.
    """
    dealing = _dealing(settings)
    marker = folder / _FEDERATION
    if marker.exists():
        was = yaml.safe_load(marker.read_text())
        for key in sorted(set(was) | set(dealing)):
            if was.get(key) != dealing.get(key):
                how = f"use {_KEYS.get(key, key)}={was.get(key)}".lower()
                raise Refused(
                    f"{folder}: these sites were dealt out with {key} {was.get(key)}, now "
                    f"{dealing.get(key)} is asked; their ledgers stay with them: {how}"
                )
    else:
        _deal(settings, folder, lifetime_epsilon)
    return sorted(p for p in folder.iterdir() if (p / POLICY).exists())


def _deal(settings: Settings, folder: Path, lifetime_epsilon: float) -> None:
    data = settings.data
    schema = data.load_schema()
    table = read_table(data.file)
    if table.num_rows == 0:
        raise ConfigurationError(f"{data.file}: no rows")
    coding = Coding(schema=schema)
    # Of no rows: says which column is missing before any site exists.
    coding.encode(table.slice(0, 0), unit=Unit(settings.privacy_values["unit"]))
    try:
        site_of = settings.partition(table, schema, settings.federation.sites)
    except ValueError as error:
        raise ConfigurationError(f"partition: {error}") from None
    if settings.privacy_values["unit"] == Unit.ACCOUNT:
        site_of = whole_accounts(site_of, table, schema)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".dealing-") as name:
        temporary = Path(name) / folder.name
        temporary.mkdir()
        # One key for all sites: a unit that sits at several is on one side of the split at each.
        key = split_key(settings)
        roster = _roster(settings, temporary)
        total = sum(
            _make_site(settings, temporary / name, table.filter(pa.array(site_of == number)),
                       coding, lifetime_epsilon, key, roster)
            for number, name in enumerate(roster)
        )  # fmt: skip
        if total and settings.privacy is not None and settings.privacy.trust != Trust.NONE:
            check_delta(settings.privacy.delta, total, where="declared")
        (temporary / _FEDERATION).write_text(yaml.safe_dump(_dealing(settings), sort_keys=False))
        os.rename(temporary, folder)


def _roster(settings: Settings, parent: Path) -> dict[str, str]:
    """Make every site's folder and signing key; return their names and public keys."""
    roster, width = {}, max(2, len(str(settings.federation.sites - 1)))
    for number in range(settings.federation.sites):
        name = f"site-{number:0{width}d}"
        (parent / name).mkdir()
        roster[name] = keys.public_hex(signing.load(parent / name))
    return roster


def _make_site(
    settings: Settings,
    site: Path,
    rows: pa.Table,
    coding: Coding,
    lifetime_epsilon: float,
    key: bytes,
    roster: Mapping[str, str],
) -> int:
    """Write one site's folder; return its declared units, 0 when they are private."""
    data = settings.data
    pq.write_table(rows, site / "rows.parquet")
    units = training_units(settings, coding, rows, key) if data.public_size else None
    Site.create(
        site,
        policy=_policy(settings, site.name, units, lifetime_epsilon, roster),
        data="rows.parquet",
        schema=coding.schema,
        holdout=data.holdout,
        split_key=key,
    )
    return units or 0


def _policy(
    settings: Settings,
    name: str,
    units: int | None,
    lifetime_epsilon: float,
    roster: Mapping[str, str],
) -> Policy:
    public, unit = settings.data.public, str(settings.privacy_values["unit"])
    shared = (Trust.LOCAL, Trust.DISTRIBUTED)
    # As few as a run may ask for by itself, whatever its trust and rule.
    most = four_of_five(len(roster))
    return Policy(
        site=name,
        dataset=settings.data.dataset,
        unit=unit,
        adjacency=Adjacency.ADD_REMOVE,
        stable_ids=settings.data.keeps_ids(unit),
        delta=float(settings.privacy_values["delta"]),
        lifetime_epsilon=lifetime_epsilon,
        run_epsilon=lifetime_epsilon,
        min_noise_multiplier=0.3,
        max_clip_norm=100.0,
        max_records_per_account=_MAX_RECORDS if unit == Unit.ACCOUNT else 1,
        purposes=PURPOSES,
        models=tuple(REGISTRY),
        trusts=(*shared, Trust.NONE) if public else shared,
        randomness=tuple(RandomnessKind) if public else (RandomnessKind.SYSTEM,),
        public=public,
        units=units,
        min_sites=min(most, settings.federation.min_sites or most),
        max_colluding=1,
        max_sites_per_unit=1,
        roster=roster,
        bundles=(),
    )
