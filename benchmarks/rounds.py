"""Seconds of one round on loopback: stock Flower beside `dp-risk site serve`, in one run.

Stock: `flower-supernode` at every site, and an app without any work whose server asks with
`grid.send_and_receive`. Ours: the same `flower-superlink`, the installed apps at sites that
`dp-risk site serve` runs, with DP-SGD on their rows, a ledger on the disk and signed releases. The
first round of each is left out: it pays for what is loaded once. Run it from the repository:

    PYTHONPATH=. python benchmarks/rounds.py
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

from dp_risk.cli.compose import settings
from dp_risk.cli.simulate import make_sites
from server.job import Job
from tests.deployment.joining import join
from tests.deployment.processes import HOST, Processes, free_ports, processes

SECONDS = 1200
# As many numbers as the model of ours has.
WEIGHTS = 600
PYPROJECT = """\
[project]
name = "stock-rounds"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "stock_rounds.server:app"
clientapp = "stock_rounds.client:app"

[tool.flwr.app.config]
sites = 0
rounds = 0
out = ""
"""
STOCK_SERVER = """\
import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    asked = context.run_config
    while len(nodes := list(grid.get_node_ids())) < asked["sites"]:
        time.sleep(0.1)
    seconds = []
    for _ in range(asked["rounds"]):
        start = time.monotonic()
        weights = ArrayRecord({"w": Array(np.zeros(%d))})
        asks = [Message(RecordDict({"weights": weights}), node, "train") for node in nodes]
        answers = list(grid.send_and_receive(asks))
        assert len(answers) == len(nodes) and all(one.has_content() for one in answers)
        seconds.append(time.monotonic() - start)
    Path(asked["out"]).write_text(json.dumps(seconds))
"""
STOCK_CLIENT = """\
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
"""


def superlink(running: Processes) -> int:
    """Start a SuperLink and its executor; return its port."""
    (link,) = free_ports(1)
    running.start(
        "superlink", "flower-superlink", "--insecure", "--host", HOST, "--port", str(link),
        "--isolation", "process", "--disable-runtime-dependency-installation",
    )  # fmt: skip
    running.wait_for_port("superlink", link)
    address = f"{HOST}:{link}"
    running.start("executor", "flower-superexec", "--insecure", "--runtime-api-address", address)
    connection = f'[superlink.loopback]\naddress = "{address}"\ninsecure = true\n'
    (running.home("flwr") / "config.toml").write_text(connection)
    return link


def run(running: Processes, app: Path, config: str) -> None:
    """Run an app to its end."""
    overrides = running.folder / "overrides.toml"
    overrides.write_text(config)
    running.start("flwr", "flwr", "run", app, "loopback", "--run-config", overrides, "--stream")
    assert running.wait_for_exit("flwr") == 0


def stock(folder: Path, sites: int, rounds: int) -> list[float]:
    """Return the seconds of each round of stock Flower."""
    app, out = folder / "stock", folder / "stock.json"
    (app / "stock_rounds").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PYPROJECT)
    for name, code in (
        ("server", STOCK_SERVER % WEIGHTS),
        ("client", STOCK_CLIENT),
        ("__init__", ""),
    ):
        (app / "stock_rounds" / f"{name}.py").write_text(code)
    with processes(folder / "stock-processes", seconds=SECONDS) as running:
        link = superlink(running)
        for number, port in enumerate(free_ports(sites)):
            running.start(
                f"site-{number}", "flower-supernode", "--insecure", "--superlink",
                f"{HOST}:{link}", "--host", HOST, "--port", str(port),
            )  # fmt: skip
        run(running, app, f"sites = {sites}\nrounds = {rounds}\nout = {json.dumps(str(out))}\n")
    return list(json.loads(out.read_text()))


def ours(folder: Path, sites: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each round, and of its slowest site's work."""
    asked = settings(
        [
            f"federation.sites={sites}",
            f"federation.rounds={rounds}",
            f"federation.timeout={SECONDS // 4}",
            "privacy.epsilon=1",
            f"sites.dir='{folder}/sites'",
        ]
    )
    made = make_sites(asked, Path(asked.sites.dir), lifetime_epsilon=asked.sites.lifetime_epsilon)
    job = Job(
        run="rounds",
        folder=folder / "run",
        dataset=asked.data.dataset,
        schema=asked.data.load_schema().to_dict(),
        model=asked.model_name,
        model_options=asked.model_options,
        privacy=asked.asked,
        federation=asked.federation,
        seed=asked.seed,
        capacity=asked.evaluation.capacity,
        memory=folder / "heads.json",
    )
    job.folder.mkdir()
    app = Path(__file__).parent.parent / "tests" / "deployment" / "bundle"
    with processes(folder / "processes", seconds=SECONDS) as running:
        link = superlink(running)
        join(made, link, folder / "federation")
        for site in made:
            running.start(site.name, "dp-risk", "site", "serve", site, "--insecure", "--log-json")
        run(running, app, f"job = {json.dumps(job.to_json())}\n")
        logs = [(running.folder / f"{site.name}.log").read_text() for site in made]
    ends = [json.loads(line)["seconds"] for line in (job.folder / "rounds.jsonl").open()]
    worked = [0.0] * rounds
    for line in itertools.chain.from_iterable(log.splitlines() for log in logs):
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "answered" and event["purpose"] == "training":
            worked[event["round"]] = max(worked[event["round"]], event["seconds"])
    return [after - before for before, after in itertools.pairwise(ends)], worked[1:]


def main() -> None:
    """Measure both and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20, help="of ours; a quarter of stock's")
    parser.add_argument("--quick", action="store_true", help="two sites, few rounds")
    asked = parser.parse_args()
    sites, rounds = (2, 6) if asked.quick else (asked.sites, asked.rounds)
    # What the processes wrote comes at their end, to the standard error.
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(sys.stderr):
        theirs = stock(Path(root), sites, max(3, rounds // 4))[1:]
        mine, work = ours(Path(root), sites, rounds)
    for name, seconds in (("stock Flower", theirs), ("dp-risk site serve", mine)):
        print(
            f"{name}: {statistics.median(seconds):.2f} s a round (median of {len(seconds)} rounds, "
            f"{min(seconds):.2f} to {max(seconds):.2f}; {sites} sites)"
        )
    ratio = statistics.median(theirs) / statistics.median(mine)
    print(f"ratio: {ratio:.1f}")
    rest = statistics.median(whole - part for whole, part in zip(mine, work, strict=True))
    print(
        f"of a round of ours the slowest site works {statistics.median(work):.2f} s (pull, charge, "
        f"compute, sign); {rest:.2f} s are polls of both sides, messages and the server's step"
    )


if __name__ == "__main__":
    main()
