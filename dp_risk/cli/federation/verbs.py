"""The verbs of `dp-risk federation`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Add = Callable[[str, str, str], argparse.ArgumentParser]


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
