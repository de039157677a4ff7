"""`dp-risk federation init`: the folder of a new federation."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from dp_risk.data.schema import Schema
from dp_risk.federation import certificates, checks, files
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.house import LETTER, OPERATOR, House
from dp_risk.types import ConfigurationError, Unit


def init(
    folder: Path,
    *,
    schema: Path,
    dataset: str,
    unit: str,
    delta: float,
    name: str | None,
    hosts: Sequence[str],
    port: int,
    insecure: bool,
) -> list[str]:
    """Write a federation's folder: certificates, keys, an empty roster and an operator's folder.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If the folder exists, or a value or file is wrong; then nothing is written.
    """
    description = Schema.from_yaml(schema)
    if unit == Unit.ACCOUNT and description.account is None:
        raise ConfigurationError(f"{schema}: unit account needs the account column (account:)")
    agreed = Agreement(dataset=dataset, schema=description.digest, unit=unit, delta=delta)
    with files.new_folder(folder) as made:
        house = House.create(
            made,
            name=folder.name if name is None else name,
            hosts=[checks.host(host, "--host") for host in hosts],
            port=port,
            insecure=insecure,
            agreed=agreed,
            # Its name is in the digest, and may be that of the file here: it is written out.
            schema=f"# Of all sites, as agreed.\n{description.to_yaml()}".encode(),
            now=datetime.datetime.now(datetime.UTC),
        )
    house = dataclasses.replace(house, folder=folder)
    secret = ["federation.key", f"{OPERATOR}/operator.key"]
    lines = [f"written: {folder}: {house.name} at {house.url}"]
    if insecure:
        lines.append(
            "INSECURE: no certificates: anybody on the way may read and change every message; for "
            "one machine only"
        )
    else:
        secret += ["authority.key", "server.key"]
        shown = certificates.certificate_fingerprint(files.read(house.authority))
        lines.append(f"authority: {shown}")
    return [
        *lines,
        f"federation key: {checks.fingerprint(bytes.fromhex(house.public_key))}",
        f"keep to yourself, and back up: {', '.join(secret)}",
        f"copy {folder / OPERATOR} to wherever runs are started: whoever has it can start them",
        f"next: dp-risk federation admit {folder} SITE.JSON... with the site.json of every site; "
        f"then send {LETTER} back to them",
    ]
