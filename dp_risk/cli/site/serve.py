"""`dp-risk site serve`: a site takes part until somebody ends it."""

from __future__ import annotations

import fcntl
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clients.fleet import Fleet, Server
from clients.node import Ended, Ending, Node
from clients.site import Site
from clients.telling import LOG, tell
from dp_risk.cli.lines import Formatter
from dp_risk.federation import node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.membership import Membership
from dp_risk.types import ConfigurationError

_LOCK = "serve.lock"
_INTERRUPTED = 130


def serve(folder: Path, *, insecure: bool, as_json: bool, verbose: bool) -> int:
    """Serve until SIGTERM or SIGINT; one line an event on standard output.

    Parameters
    ----------
    folder : Path
        The site's folder.
    insecure : bool
        Allow a federation without TLS.
    as_json : bool
        Lines of JSON instead of text.
    verbose : bool
        Also Flower's own log.

    Returns
    -------
    int
        0 after SIGTERM, 130 after SIGINT.

    Raises
    ------
    ConfigurationError, Refused, VerificationError
        If something in the folder is missing or does not fit, or another process serves it.
    """
    ending = Ending()
    with _lines(as_json=as_json, verbose=verbose):
        try:
            with _signals(ending), _alone(folder):
                fleet = Fleet(server=_prepared(folder, insecure))
                Node(site=folder, connect=fleet, ending=ending).serve()
        except Ended:
            tell(logging.INFO, "ended", then="charges are kept, the same command goes on")
    return _INTERRUPTED if ending.number == signal.SIGINT else 0


@contextmanager
def _signals(ending: Ending) -> Iterator[None]:
    before = {number: signal.signal(number, ending) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepared(folder: Path, insecure: bool) -> Server:
    """Check the folder, say what it is, and return whom to call."""
    membership = Membership.load(folder)
    if membership.insecure and not insecure:
        raise ConfigurationError(
            f"{folder}: the federation {membership.name} has no TLS: anybody on the way reads and "
            "changes what is said; --insecure if that is what you want"
        )
    if insecure and not membership.insecure:
        raise ConfigurationError(
            f"{folder}: --insecure: the federation {membership.name} has TLS; leave the flag out"
        )
    key = node_keys.load(membership.node_key)
    # Small batches: more threads cost more than they give.
    torch.set_num_threads(1)
    site = Site.open(folder)
    try:
        policy, left = site.policy, site.ledger.state.left_epsilon
        mine = Agreement(
            dataset=policy.dataset,
            schema=site.shard.schema.digest,
            unit=str(policy.unit),
            delta=policy.delta,
        )
        differences = membership.agreed.differences(mine)
        if differences:
            raise ConfigurationError(
                f"{folder}: the federation {membership.name} is about something else: "
                + "; ".join(differences)
            )
        if not site.shard.path.is_file():
            raise ConfigurationError(f"{site.shard.path}: the site's data file is not there")
        tell(
            logging.INFO,
            "serving",
            site=policy.site,
            federation=membership.name,
            address=membership.url,
            left_epsilon=left,
            lifetime_epsilon=policy.lifetime_epsilon,
        )
        if insecure:
            tell(
                logging.WARNING,
                "INSECURE",
                what="no TLS: anybody on the way reads and changes messages; never for real data",
            )
        # Coded once and kept: what is wrong with the file is said now, not in the first round.
        _ = site.shard.train, site.shard.holdout_units
    finally:
        site.ledger.close_file()
    return Server(
        address=membership.address,
        insecure=membership.insecure,
        authority=membership.authority,
        key=key,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process.

    Raises
    ------
    ConfigurationError
        If there is no such folder, or another process serves it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such site")
    with (folder / _LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(f"{folder}: another process serves this site") from None
        yield


@contextmanager
def _lines(*, as_json: bool, verbose: bool) -> Iterator[None]:
    """Write the site's own log to standard output, and Flower's with `verbose` only."""
    warnings.filterwarnings("ignore")
    flower = logging.getLogger("flwr")
    before = (LOG.handlers, LOG.propagate, LOG.level, flower.level)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter(as_json=as_json))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    flower.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        yield
    finally:
        LOG.handlers, LOG.propagate = before[0], before[1]
        LOG.setLevel(before[2])
        flower.setLevel(before[3])
