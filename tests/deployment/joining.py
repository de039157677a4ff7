"""Sites that joined a federation without TLS, as `dp-risk site join` leaves them."""

from __future__ import annotations

import datetime
from pathlib import Path

from clients.site import Site
from dp_risk.federation import node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.house import House
from dp_risk.federation.membership import LETTER, NODE_KEY
from tests.deployment.processes import HOST


def join(sites: list[Path], port: int, folder: Path) -> None:
    """Make a federation in `folder` and give each site its letter and a node key."""
    site = Site.open(sites[0])
    agreed = Agreement(
        dataset=site.policy.dataset,
        schema=site.shard.schema.digest,
        unit=str(site.policy.unit),
        delta=site.policy.delta,
    )
    site.ledger.close_file()
    folder.mkdir()
    made = House.create(
        folder,
        name="loopback",
        hosts=(HOST,),
        port=port,
        insecure=True,
        agreed=agreed,
        schema=b"name: any\n",
        now=datetime.datetime.now(datetime.UTC),
    )
    for place in sites:
        node_keys.load_or_create(place / NODE_KEY)
        (place / LETTER).write_bytes((made.folder / LETTER).read_bytes())
