"""A whole federation on loopback: a server, its sites, and an operator, each a process of its own.

Sites hold the tiny data of `tests.federation`. Whoever tests faults kills and restarts processes by
name: "server", or a site's name.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dp_risk.cli.federation.admit import admit
from dp_risk.cli.federation.client import Client
from dp_risk.cli.federation.init import init
from dp_risk.cli.site.join import join
from dp_risk.cli.site.letter import letter
from dp_risk.federation.house import LETTER, House
from dp_risk.federation.membership import SITE_LETTER
from dp_risk.federation.operator import Operator
from dp_risk.privacy.ledger import Entry, Ledger
from tests.deployment.processes import HOST, Processes, free_ports, processes
from tests.federation import DELTA, SCHEMA, make_site, policy, roster, rows

SERVER = "server"


@dataclass(kw_only=True)
class Loopback:
    """A federation that was made; `start` starts its processes."""

    root: Path
    running: Processes
    insecure: bool

    @property
    def folder(self) -> Path:
        """The federation's folder."""
        return self.root / "fed"

    @property
    def house(self) -> House:
        """The federation."""
        return House.open(self.folder)

    @property
    def sites(self) -> list[str]:
        """Names of all sites."""
        return sorted(path.name for path in (self.root / "sites").iterdir())

    def site(self, name: str) -> Path:
        """Return a site's folder."""
        return self.root / "sites" / name

    def client(self) -> Client:
        """Return an operator's way to the server."""
        return Client(Operator.load(self.folder / "operator"))

    def start(self, *names: str) -> None:
        """Start processes by name; all of them without a name."""
        flag = ["--insecure"] if self.insecure else []
        for name in names or (SERVER, *self.sites):
            if name == SERVER:
                words = ["federation", "serve", self.folder, "--log-json", *flag]
            else:
                words = ["site", "serve", self.site(name), "--log-json", *flag]
            self.running.start(name, "dp-risk", *words)
            if name == SERVER:
                self.running.wait_for_port(SERVER, self.house.port)

    def kill(self, name: str) -> None:
        """Kill a process at once, and what it started."""
        self.running.kill(name)

    def restart(self, name: str) -> None:
        """Start a process that was killed."""
        self.start(name)

    def kill_child(self) -> int:
        """Kill the child of the current run alone; return its process id."""
        child = self.children()[0]
        os.kill(child, signal.SIGKILL)
        return child

    def children(self) -> list[int]:
        """Return the process ids of the server's children."""
        parent = self.running.process(SERVER).pid
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return [int(word) for word in text.split()]

    def run(self, *overrides: str, name: str = "run") -> Path:
        """Start `dp-risk federation run` and return its run folder, not there before the end."""
        place = self.root / name
        self.running.start(
            name, "dp-risk", "federation", "run", "--log-json",
            f"grid.operator='{self.folder / 'operator'}'", f"run.dir='{place}'",
            "privacy.epsilon=1", *overrides,
        )  # fmt: skip
        return place

    def events(self, name: str = SERVER) -> list[dict[str, Any]]:
        """Return what a process has said so far."""
        lines = (self.running.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_until(self, what: Any, *, seconds: float = 60.0) -> Any:
        """Return the first truth of a callable."""
        deadline = time.monotonic() + seconds
        while True:
            found = what()
            if found:
                return found
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)

    def entries(self, site: str) -> list[Entry]:
        """Return the entries of a site's ledger, verified."""
        ledger = Ledger.open(self.site(site) / "ledger.sqlite")
        ledger.verify()
        return list(ledger.entries())


@contextmanager
def loopback(
    root: Path, *, sites: int, seconds: float, insecure: bool = False, **rules: Any
) -> Iterator[Loopback]:
    """Make a federation of so many sites, each with these policy fields; stop all at the end."""
    make(root, sites=sites, insecure=insecure, **rules)
    with processes(root / "processes", seconds=seconds) as running:
        yield Loopback(root=root, running=running, insecure=insecure)


def make(root: Path, *, sites: int, insecure: bool = False, **rules: Any) -> None:
    """Write the folders of a federation and of its sites, all admitted and joined."""
    root.mkdir(parents=True, exist_ok=True)
    schema, house, names = root / "schema.yaml", root / "fed", list(roster(sites))
    schema.write_text(yaml.safe_dump(SCHEMA))
    init(
        house, schema=schema, dataset="tiny", unit="record", delta=DELTA, name="loopback",
        hosts=[HOST], port=free_ports(1)[0], insecure=insecure,
    )  # fmt: skip
    places = [root / "sites" / name for name in names]
    for number, place in enumerate(places):
        make_site(place, rows(300, seed=number), policy(**{"site": place.name, **rules}))
        letter(place)
    admit(house, [place / SITE_LETTER for place in places])
    for place in places:
        join(place, house / LETTER, new_federation=False)
