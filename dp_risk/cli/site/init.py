"""`dp-risk site init`: the folder of a new site, with a policy to read and change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clients.policy import Policy
from clients.signing import PUBLIC_KEY
from clients.site import Site
from dp_risk.cli.site.letter import letter
from dp_risk.data.schema import Schema
from dp_risk.data.source import column_names
from dp_risk.federation import files
from dp_risk.models import REGISTRY
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.schedule import PURPOSES, SUBGROUPS
from dp_risk.types import Adjacency, ConfigurationError, RandomnessKind, Trust, Unit


def init(
    folder: Path,
    *,
    data: Path,
    schema: Path,
    dataset: str | None,
    name: str | None,
    unit: str,
    max_records_per_account: int,
    stable_ids: bool | None,
    delta: float,
    lifetime_epsilon: float,
    run_epsilon: float | None,
    holdout: float,
    split_key: Path | None,
    trusts: Sequence[str] | None,
    subgroups: bool,
) -> list[str]:
    """Write a site's folder: keys, data configuration and a policy with comments.

    No row is read, only the names of the columns.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If the folder exists, or a value or file is wrong; then nothing is written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder}: exists already; a site's budget is never made anew")
    description = Schema.from_yaml(schema)
    missing = [c for c in description.columns if c not in column_names(data)]
    if missing:
        raise ConfigurationError(f"{data}: no column {missing[0]}, which {schema} names")
    if unit == Unit.ACCOUNT and description.account is None:
        raise ConfigurationError(f"{schema}: unit account needs the account column (account:)")
    if not 0 <= holdout < 1:
        raise ConfigurationError(f"--holdout: {holdout} is not in [0, 1)")
    shared = None if split_key is None else _shared(split_key)
    if run_epsilon is not None and run_epsilon > lifetime_epsilon:
        raise ConfigurationError(
            f"--run-epsilon: {run_epsilon:g} is above the lifetime budget of {lifetime_epsilon:g}"
        )
    named = description.id is not None or unit == Unit.ACCOUNT
    policy = Policy(
        site=name or folder.name,
        dataset=dataset or data.name.split(".")[0],
        unit=unit,
        adjacency=Adjacency.ADD_REMOVE,
        stable_ids=named if stable_ids is None else stable_ids,
        delta=delta,
        lifetime_epsilon=lifetime_epsilon,
        run_epsilon=lifetime_epsilon if run_epsilon is None else run_epsilon,
        min_noise_multiplier=0.3,
        max_clip_norm=10.0,
        max_records_per_account=max_records_per_account if unit == Unit.ACCOUNT else 1,
        purposes=tuple(name for name in PURPOSES if subgroups or name != SUBGROUPS),
        models=tuple(REGISTRY),
        trusts=tuple(dict.fromkeys(trusts or (Trust.LOCAL,))),
        randomness=(RandomnessKind.SYSTEM,),
        public=False,
        units=None,
        min_sites=1,
        max_colluding=1,
        max_sites_per_unit=1,
        roster={},
        bundles=(),
    )
    try:
        Filter.open(lifetime_epsilon, delta)
    except ValueError as error:
        raise ConfigurationError(f"--lifetime-epsilon: {error}") from None
    with files.new_folder(folder) as made:
        Site.create(
            made,
            policy=policy,
            data=str(data.resolve()),
            schema=description,
            holdout=holdout,
            split_key=shared or os.urandom(32),
        )
        introduction = letter(made)
    lines = [
        f"written: {folder}: read policy.yaml and change it now: the first use opens the ledger, "
        "which keeps dataset, unit, delta and stable_ids for ever",
        f"for your partners' rosters: {(folder / PUBLIC_KEY).read_text().strip()}",
        *introduction,
        "keep site.key, node.key and split.key to yourself, and back up the whole folder: without "
        "the ledger nobody knows what was spent",
    ]
    lines.append(
        f"policy.yaml allows trust {' and '.join(policy.trusts)} (--trust), and runs of any number "
        "of sites (min_sites 1)"
    )
    if not policy.stable_ids:
        lines.append(
            "stable_ids is false, because the schema names no id: an edited row may move between "
            "training and holdout, so both are charged in sequence (--stable-ids if rows are never "
            "edited)"
        )
    return lines


def _shared(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        raise ConfigurationError(f"--split-key: {path}: no readable key") from None
    if not 16 <= len(key) <= 64:
        raise ConfigurationError(f"--split-key: {path}: 16 to 64 bytes are needed")
    return key
