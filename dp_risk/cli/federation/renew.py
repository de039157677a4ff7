"""`dp-risk federation renew`: a new certificate for the server, by the same authority."""

from __future__ import annotations

import datetime
from pathlib import Path

from dp_risk.federation.house import House
from dp_risk.types import ConfigurationError


def renew(folder: Path, *, new_key: bool) -> list[str]:
    """Renew the server's certificate where it ends soon or its hosts changed.

    Parameters
    ----------
    folder : Path
        The federation's folder.
    new_key : bool
        Make another key for the server too, at any time.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If the federation has no certificates, or a file is missing or malformed.
    """
    house = House.open(folder)
    if house.insecure:
        raise ConfigurationError(f"{folder}: an insecure federation has no certificates")
    with house.locked():
        done = house.renew(datetime.datetime.now(datetime.UTC), new_key=new_key)
    if not done:
        return [f"{house.certificate}: neither ends soon nor misses a host: nothing to do"]
    return [
        f"written: {house.certificate}: the sites notice nothing, since the authority is the same",
        "restart the server to use it",
    ]
