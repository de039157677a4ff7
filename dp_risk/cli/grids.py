"""Where the sites of one run answer: in this process, or in processes of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.app import make_app
from clients.site import Site
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
        with ExitStack() as opened:
            app = make_app(remember=False) if settings.amnesia else _remembering(opened)
            yield InProcessGrid(app, nodes)
        return
    with actors(forgetful, cpus_per_site=settings.cpus_per_site, address=settings.address) as app:
        yield InProcessGrid(app, nodes, executor=app.executor)


def _remembering(opened: ExitStack) -> ClientApp:
    """Return the sites' app for one process; the ledgers that it opens close with `opened`."""

    def open_site(folder: Path) -> Site:
        site = Site.open(folder)
        opened.callback(site.ledger.close_file)
        return site

    return make_app(open_site=open_site)
