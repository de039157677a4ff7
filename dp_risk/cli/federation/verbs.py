"""The verbs of `dp-risk federation`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Add = Callable[[str, str, str], argparse.ArgumentParser]
_OPERATOR = Path("federation/operator")


def add_verbs(add: Add) -> None:
    """Add the verbs; `add(name, what, example)` makes one of them."""
    verb = add(
        "init",
        "make a federation: certificates, keys, an empty roster and an operator",
        "federation init fed --schema mine.schema.yaml --dataset mine --delta 1e-5 "
        "--host fl.example.org",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the new federation's folder")
    verb.add_argument("--schema", type=Path, required=True, help="filled-in schema of all sites")
    verb.add_argument("--dataset", required=True, help="dataset id, the same at every site")
    verb.add_argument("--delta", type=float, required=True, help="the same at every site")
    verb.add_argument("--unit", choices=["record", "account"], default="record")
    verb.add_argument("--name", help="the federation's name (default: the folder's)")
    verb.add_argument(
        "--host",
        action="append",
        dest="hosts",
        help="name or IP address under which sites reach the server; may be given more than once, "
        "the first one counts (default: localhost)",
    )
    verb.add_argument("--port", type=int, default=8000, help="TCP port (default: 8000)")
    verb.add_argument(
        "--insecure",
        action="store_true",
        help="no certificates: anybody on the way may read and change messages",
    )
    verb.set_defaults(act=_init)

    verb = add(
        "admit",
        "take sites into the roster, and write the letter to all sites anew",
        "federation admit fed site-a.json site-b.json",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the federation's folder")
    verb.add_argument(
        "letters", type=Path, nargs="*", metavar="SITE.JSON", help="site.json of each new site"
    )
    verb.set_defaults(act=_admit)

    verb = add(
        "revoke",
        "take a site off the roster, and write the letter to all sites anew",
        "federation revoke fed site-a",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the federation's folder")
    verb.add_argument("site", metavar="SITE", help="the site's name")
    verb.set_defaults(act=_revoke)

    verb = add(
        "renew",
        "a new certificate for the server by the same authority, where its own ends soon",
        "federation renew fed",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the federation's folder")
    verb.add_argument(
        "--new-key", action="store_true", help="make another key for the server too, at any time"
    )
    verb.set_defaults(act=_renew)

    verb = add(
        "operator",
        "let one more person start runs: a folder with a key of its own",
        "federation operator fed ada --out ada",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the federation's folder")
    verb.add_argument("name", metavar="NAME", help="the operator's name")
    verb.add_argument("--out", type=Path, required=True, help="new folder for the operator")
    verb.set_defaults(act=_operator)

    verb = add(
        "serve",
        "serve a federation until the process is ended; unfinished runs go on",
        "federation serve fed",
    )
    verb.add_argument("folder", type=Path, metavar="FED", help="the federation's folder")
    verb.add_argument("--log-json", action="store_true", help="events as JSON lines")
    verb.add_argument("--insecure", action="store_true", help="serve a federation without TLS")
    verb.set_defaults(act=_serve)

    verb = add(
        "run",
        "one run of a federation, watched from anywhere; interrupting it only stops the watching",
        "federation run privacy.epsilon=1 grid.operator=operator",
    )
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    verb.add_argument("--log-json", action="store_true", help="progress as JSON lines")
    verb.add_argument("--attach", metavar="RUN", help="watch a run that was asked for before")
    verb.set_defaults(act=_run)

    verb = add(
        "status",
        "sites, runs and lifetime budgets of a federation",
        "federation status --operator operator --watch",
    )
    _add_operator(verb)
    verb.add_argument("--json", action="store_true", help="one JSON object")
    verb.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    verb.set_defaults(act=_status)

    verb = add(
        "stop",
        "end a run at the server and its sites; what was charged stays charged",
        "federation stop 0123456789abcdef --operator operator",
    )
    verb.add_argument("run", metavar="RUN", help="id of the run")
    _add_operator(verb)
    verb.set_defaults(act=_stop)


def _init(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.init import init

    names = ("schema", "dataset", "unit", "delta", "name", "port", "insecure")
    asked = {name: getattr(options, name) for name in names}
    for line in init(options.folder, hosts=options.hosts or ["localhost"], **asked):
        print(line)


def _admit(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.admit import admit

    for line in admit(options.folder, options.letters):
        print(line)


def _revoke(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.admit import revoke

    for line in revoke(options.folder, options.site):
        print(line)


def _renew(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.renew import renew

    for line in renew(options.folder, new_key=options.new_key):
        print(line)


def _operator(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.operator import operator

    for line in operator(options.folder, options.name, options.out):
        print(line)


def _add_operator(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--operator",
        type=Path,
        default=_OPERATOR,
        metavar="DIR",
        help=f"the operator's folder (default: {_OPERATOR})",
    )


def _serve(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.serve import serve

    serve(
        options.folder,
        insecure=options.insecure,
        as_json=options.log_json,
        verbose=options.verbose,
    )


def _run(options: argparse.Namespace) -> None:
    import warnings

    warnings.filterwarnings("ignore")
    from dp_risk.cli.federation.run import run

    run(options.overrides, as_json=options.log_json, attach=options.attach)


def _status(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.status import status

    status(options.operator, as_json=options.json, watch=options.watch)


def _stop(options: argparse.Namespace) -> None:
    from dp_risk.cli.federation.status import stop

    print(stop(options.operator, options.run))
