"""Flower's simulation engine: sites answer in processes of Ray, on one machine or a cluster.

All that is Flower's internal API for this lives here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY

from dp_risk.types import ConfigurationError, FederationError

LOG = logging.getLogger("dp_risk.server")
# Ray asks the internet and writes to this process's streams unless it is told not to.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Actors:
    """The sites' app in the processes of a pool; call it with a message and a context.

    Parameters
    ----------
    backend : RayBackend
        Of Flower, built.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.executor = ThreadPoolExecutor(backend.num_workers)
        """As many threads as processes: each waits for the answer of one."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Let the next free process answer; raises whatever kept it from that."""
        # The engine names what it runs by a partition; where a site's data is, its folder says.
        config = {PARTITION_ID_KEY: context.node_id, **context.node_config}
        numbered = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=config,
            state=context.state,
            run_config=context.run_config,
        )
        reply, _ = self._backend.process_message(message, numbered)
        return reply


@contextmanager
def actors(
    load: Callable[[], ClientApp], *, cpus_per_site: float, address: str | None
) -> Iterator[Actors]:
    """Start the engine, and end it.

    A process that dies is started again; what it was asked is lost, and stays charged if it was.

    Parameters
    ----------
    load : callable
        Returns the sites' app: an importable function, called in every process. An app must not
        remember sites, since any process may answer for any of them.
    cpus_per_site : float
        Cores that a site takes while it answers, above 0: how many answer at a time.
    address : str or None
        Of a Ray cluster that sees the sites' folders; None starts Ray on this machine.

    Raises
    ------
    ConfigurationError
        If Ray is not installed, or has not so many cores.
    FederationError
        If Ray does not start.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "grid: ray needs an extra that is missing: pip install dp-risk[ray]"
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

    # Flower repeats a site's exception, whose text may hold anything.
    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.CRITICAL + 1)
    init = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        backend = RayBackend(
            {
                "init_args": init if address is None else {**init, "address": address},
                # An option of an actor like the others: for ever.
                "client_resources": {"num_cpus": cpus_per_site, "max_restarts": -1},
            }
        )
    except Exception as error:
        raise FederationError(f"grid: Ray does not start: {type(error).__name__}") from None
    try:
        try:
            backend.build(load)
        except ValueError:
            raise ConfigurationError(
                f"grid.cpus_per_site: no machine of Ray has {cpus_per_site:g} cores"
            ) from None
        running = Actors(backend)
        try:
            yield running
        finally:
            running.executor.shutdown(cancel_futures=True)
    finally:
        backend.terminate()
        flower.setLevel(level)
