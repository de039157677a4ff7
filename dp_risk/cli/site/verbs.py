"""The verbs of `dp-risk site`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_verbs(add: Add) -> None:
    """Add the verbs; `add(name, what, example)` makes one of them."""
    verb = add(
        "init",
        "make a site: keys, data configuration and a policy with comments",
        "site init mysite --data mine.csv --schema mine.schema.yaml --delta 1e-5",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the new site's folder")
    verb.add_argument("--data", type=Path, required=True, help="CSV or Parquet file of its rows")
    verb.add_argument("--schema", type=Path, required=True, help="filled-in schema")
    verb.add_argument("--delta", type=float, required=True, help="below 1 / (number of units)")
    verb.add_argument("--dataset", help="dataset id of the federation (default: the file's name)")
    verb.add_argument("--name", help="the site's name (default: the folder's)")
    verb.add_argument("--unit", choices=["record", "account"], default="record")
    verb.add_argument(
        "--max-records-per-account", type=int, default=32, help="for accounts (default: 32)"
    )
    verb.add_argument(
        "--stable-ids",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether units keep their id for ever (default: where the schema names one)",
    )
    verb.add_argument("--lifetime-epsilon", type=float, default=10.0, help="default: 10")
    verb.add_argument("--run-epsilon", type=float, help="cap of one run (default: lifetime)")
    verb.add_argument("--holdout", type=float, default=0.2, help="fraction held out (default: 0.2)")
    verb.add_argument(
        "--split-key",
        type=Path,
        help="split.key of a partner that may hold the same units (default: a new one)",
    )
    verb.add_argument(
        "--trust",
        action="append",
        dest="trusts",
        choices=["local", "distributed"],
        help="who may add the noise: this site in full, or all sites of the roster together; may "
        "be given twice (default: local)",
    )
    verb.add_argument(
        "--subgroups",
        action="store_true",
        help="let runs ask for utility by the values of a column (default: the policy says no)",
    )
    verb.set_defaults(act=_init)
    verb = add(
        "letter",
        "write site.json, the letter to the federation, as the policy says now",
        "site letter mysite",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.set_defaults(act=_letter)
    verb = add(
        "join",
        "check the federation's letter, and take its roster into the policy",
        "site join mysite federation.json",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.add_argument("letter", type=Path, metavar="FEDERATION.JSON", help="from the federation")
    verb.add_argument(
        "--new-federation",
        action="store_true",
        help="accept another federation's key than the one that is known",
    )
    verb.set_defaults(act=_join)
    verb = add(
        "rotate-key",
        "replace the key that signs the ledger, or that of the node, and write a new letter",
        "site rotate-key mysite --by 'A. Person' --reason 'once a year'",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.add_argument("--by", metavar="NAME", help="who decides: stands in the ledger")
    verb.add_argument("--reason", metavar="TEXT", help="why, one line: stands in the ledger")
    verb.add_argument(
        "--node", action="store_true", help="replace node.key instead, which no entry tells of"
    )
    verb.add_argument(
        "--close-open-run", action="store_true", help="end a run that is still open at the site"
    )
    verb.set_defaults(act=_rotate_key)
    verb = add(
        "backup",
        "write keys, settings and the ledger at one moment into a tar file, also while it serves",
        "site backup mysite mysite.tar",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.add_argument("out", type=Path, metavar="FILE", help="new tar file: it holds the keys")
    verb.set_defaults(act=_backup)
    verb = add(
        "tune",
        "choose a learning rate and a clip norm on the site's own rows; only the winner leaves",
        "site tune mysite --epsilon 1",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.add_argument("--epsilon", type=float, required=True, help="what the tuning may cost")
    verb.add_argument("--delta", type=float, help="must be the policy's (default: it)")
    verb.add_argument(
        "--candidates",
        default="defaults",
        metavar="FILE|defaults",
        help="YAML list of learning_rate and clip_norm (default: a grid of 9)",
    )
    verb.add_argument("--model", default="additive", help="default: additive")
    verb.add_argument("--out", type=Path, help="JSON file (default: SITE/tuning.json)")
    verb.add_argument(
        "--close-open-run", action="store_true", help="end a run that is still open at the site"
    )
    verb.set_defaults(act=_tune)
    verb = add(
        "serve",
        "take part in the federation until the process is ended",
        "site serve mysite",
    )
    verb.add_argument("folder", type=Path, metavar="SITE", help="the site's folder")
    verb.add_argument("--log-json", action="store_true", help="events as JSON lines")
    verb.add_argument("--insecure", action="store_true", help="allow a federation without TLS")
    verb.set_defaults(act=_serve)


def _init(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.init import init

    names = (
        *("data", "schema", "dataset", "name", "unit", "max_records_per_account", "stable_ids"),
        *("delta", "lifetime_epsilon", "run_epsilon", "holdout", "split_key", "trusts"),
        "subgroups",
    )
    for line in init(options.folder, **{name: getattr(options, name) for name in names}):
        print(line)


def _letter(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.letter import letter

    for line in letter(options.folder):
        print(line)


def _join(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.join import join

    for line in join(options.folder, options.letter, new_federation=options.new_federation):
        print(line)


def _rotate_key(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.rotate import rotate_key

    names = ("by", "reason", "node", "close_open_run")
    for line in rotate_key(options.folder, **{name: getattr(options, name) for name in names}):
        print(line)


def _backup(options: argparse.Namespace) -> None:
    from clients.backup import backup

    verified = backup(options.folder, options.out)
    print(f"written: {options.out}: {verified.entries} entries, head {verified.head}")
    print("it holds the site's keys and no row: keep it as secret as the site's folder")


def _tune(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.tune import run

    names = ("epsilon", "delta", "candidates", "model", "out", "close_open_run")
    for line in run(options.folder, **{name: getattr(options, name) for name in names}):
        print(line)


def _serve(options: argparse.Namespace) -> None:
    from dp_risk.cli.site.serve import serve

    code = serve(
        options.folder,
        insecure=options.insecure,
        as_json=options.log_json,
        verbose=options.verbose,
    )
    if code:
        raise SystemExit(code)
