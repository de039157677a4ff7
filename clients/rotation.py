"""A site's key is replaced by a new one, which the old one signs for."""

from __future__ import annotations

from clients import signing
from clients.partition import partition
from clients.site import Site
from dp_risk.privacy.account import Amendment
from dp_risk.types import Refused


def rotate(site: Site, *, by: str, reason: str, close_open_run: bool = False) -> Amendment:
    """Rotate the key that signs a site's ledger; no row is read and nothing is charged.

    Killed at any point, the site opens again, with the old key or with the new one.

    Parameters
    ----------
    site : Site
        An open site; open it anew afterwards.
    by, reason : str
        Who decides, and why: they stand in the ledger.
    close_open_run : bool
        End a run that is still open, whose plan names the old key.

    Raises
    ------
    Refused
        If a run is open, or the ledger is retired.
    ConfigurationError
        If a person or a reason is missing, or a file cannot be written.
    """
    run = site.ledger.state.open_run
    if run is not None:
        if not close_open_run:
            raise Refused(
                f"run {run} is open at this site, and its plan names the key: wait for its end, or "
                "end it here with --close-open-run; rounds that never ran are given back"
            )
        site.close(run)
    with signing.successor(site.folder) as new:
        digests = partition(site.policy, site.shard, new)
        return site.ledger.rekey(new, partition=digests, by=by, reason=reason)
