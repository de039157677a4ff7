"""Where the sites of one run answer: in this process, or in processes of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.app import make_app
from dp_risk.cli.settings import InProcess, Ray
from server.grids import InProcessGrid
from server.simulation import actors


def forgetful() -> ClientApp:
    """Return the sites' app for a process that answers for any site, now and then.

    Batches are small: more threads cost more than they give, and sum in another order.
    """
    import torch

    torch.set_num_threads(1)
    return make_app(remember=False)


@contextmanager
def running(settings: InProcess | Ray, sites: Sequence[Path]) -> Iterator[Grid]:
    """Yield a grid over these site folders.

    Raises
    ------
    ConfigurationError
        If what the grid needs is not installed, or not there.
    """
    nodes = {number + 2: str(site.resolve()) for number, site in enumerate(sites)}
    if isinstance(settings, InProcess):
        yield InProcessGrid(make_app(remember=not settings.amnesia), nodes)
        return
    with actors(forgetful, cpus_per_site=settings.cpus_per_site, address=settings.address) as app:
        yield InProcessGrid(app, nodes, executor=app.executor)
