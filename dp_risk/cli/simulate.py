"""Simulated sites: one file dealt out to folders, each with its policy, split key and ledger."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clients.policy import Policy
from clients.site import KEY, POLICY, SITE
from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coding
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask
from dp_risk.models import REGISTRY
from dp_risk.privacy.plan import COUNTS, TRAINING
from dp_risk.privacy.planning import check_delta
from dp_risk.privacy.release import digest
from dp_risk.types import Adjacency, ConfigurationError, RandomnessKind, Refused, Trust

_FEDERATION = "federation.yaml"


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
                raise Refused(
                    f"{folder}: these sites were dealt out with {key} {was.get(key)}, now "
                    f"{dealing.get(key)} is asked; their ledgers stay with them, so use the old "
                    f"setting"
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
    coding.encode(table.slice(0, 0))
    try:
        site_of = settings.partition(table, schema, settings.federation.sites)
    except ValueError as error:
        raise ConfigurationError(f"partition: {error}") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".dealing-") as name:
        temporary = Path(name) / folder.name
        temporary.mkdir()
        total = sum(
            _make_site(settings, temporary, number, table.filter(pa.array(site_of == number)),
                       coding, lifetime_epsilon)
            for number in range(settings.federation.sites)
        )  # fmt: skip
        if total and settings.privacy is not None and settings.privacy.trust != Trust.NONE:
            check_delta(settings.privacy.delta, total, where="declared")
        (temporary / _FEDERATION).write_text(yaml.safe_dump(_dealing(settings), sort_keys=False))
        os.rename(temporary, folder)


def _make_site(
    settings: Settings,
    parent: Path,
    number: int,
    rows: pa.Table,
    coding: Coding,
    lifetime_epsilon: float,
) -> int:
    """Write one site's folder; return its declared units, 0 when they are private."""
    data = settings.data
    name = f"site-{number:0{max(2, len(str(settings.federation.sites - 1)))}d}"
    site = parent / name
    site.mkdir()
    pq.write_table(rows, site / "rows.parquet")
    key = _split_key(settings)
    (site / KEY).write_text(key.hex())
    about = {
        "data": "rows.parquet",
        "holdout": data.holdout,
        "schema": coding.schema.to_dict(),
    }
    (site / SITE).write_text(yaml.safe_dump(about, sort_keys=False))
    units = None
    if data.public_size or data.public:
        coded = coding.encode(rows)
        units = int(np.sum(~holdout_mask(coded.ids, key, data.holdout)))
    _policy(settings, name, units, lifetime_epsilon).save(site / POLICY)
    return units or 0


def declared_units(settings: Settings) -> int | None:
    """Return the public number of training units of built-in data, as its sites would declare."""
    if not settings.data.public:
        return None
    coded = Coding(schema=settings.data.load_schema()).encode(read_table(settings.data.file))
    return int(np.sum(~holdout_mask(coded.ids, _split_key(settings), settings.data.holdout)))


def _split_key(settings: Settings) -> bytes:
    if settings.data.public:
        # Public data: repeatable, one key for all sites of a seed.
        return hashlib.sha256(json.dumps(["split", settings.seed]).encode()).digest()
    return os.urandom(32)


def _policy(settings: Settings, name: str, units: int | None, lifetime_epsilon: float) -> Policy:
    public = settings.data.public
    return Policy(
        site=name,
        dataset=settings.data.dataset,
        unit="record",
        adjacency=Adjacency.ADD_REMOVE,
        delta=float(settings.privacy_values["delta"]),
        lifetime_epsilon=lifetime_epsilon,
        run_epsilon=lifetime_epsilon,
        min_noise_multiplier=0.3,
        max_clip_norm=100.0,
        purposes=(TRAINING, COUNTS),
        models=tuple(REGISTRY),
        trusts=(Trust.LOCAL, Trust.NONE) if public else (Trust.LOCAL,),
        randomness=tuple(RandomnessKind) if public else (RandomnessKind.SYSTEM,),
        public=public,
        units=units,
    )
