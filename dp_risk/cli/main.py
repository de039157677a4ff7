"""`dp-risk`: verbs, exit codes and messages."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dp_risk import __version__
from dp_risk.cli import ledger as ledger_verbs
from dp_risk.cli import shards
from dp_risk.cli.federation import verbs as federation_verbs
from dp_risk.cli.folders import printable
from dp_risk.cli.site import verbs as site_verbs
from dp_risk.types import ConfigurationError, DpRiskError, VerificationError

if TYPE_CHECKING:
    from dp_risk.cli.settings import Settings

# Whatever the environment says: nobody is told what runs here.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

_INTERRUPTED = 130
_EXAMPLES = """examples:
  dp-risk plan privacy.epsilon=1
  dp-risk train privacy.epsilon=1
  dp-risk frontier +experiment=demo
  dp-risk audit privacy.epsilon=1
  dp-risk train -m privacy.epsilon=1,2 seed=0,1

exit codes: 0 done, 1 internal error, 2 bad configuration or unreadable source, 3 refused by a
budget or policy, 4 federation failure, 5 verification failed or a claim falsified,
130 interrupted (charges kept)
"""
_CONFIGURED = {
    "plan": ("what an epsilon costs, before any data is touched", "privacy.epsilon=1"),
    "train": ("one federated run", "privacy.epsilon=1 data=adult federation.sites=10"),
    "frontier": (
        "utility against epsilon over many runs, on public data",
        "+experiment=demo frontier.seeds=[0]",
    ),
    "audit": (
        "try to falsify the configured trainer's claim, on public data",
        "privacy.epsilon=1 data=adult model=mlp audit=quick",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(r.startswith("-") for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Overrides may stand before and after a flag.
    options.overrides = [*getattr(options, "overrides", []), *rest]
    _logging(verbose=getattr(options, "verbose", False))
    try:
        options.act(options)
    except DpRiskError as error:
        print(f"dp-risk: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"dp-risk: interrupted; {_kept(options)}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
    except OSError as error:
        if getattr(options, "verbose", False):
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"dp-risk: {error.strerror or type(error).__name__}{where}", file=sys.stderr)
        return 1
    except Exception as error:
        if getattr(options, "verbose", False):
            raise
        print(f"dp-risk: internal error: {type(error).__name__} (-v shows more)", file=sys.stderr)
        return 1
    return 0


def _kept(options: argparse.Namespace) -> str:
    """Say what an interrupted command leaves behind."""
    if options.verb == "federation":
        return "the federation goes on"
    if options.verb in ("audit", "frontier"):
        return "its sites were simulated: no ledger of yours was charged, and nothing was written"
    return (
        "charges are kept and rounds that never ran are given back; run the same command to start "
        "anew with what is left"
    )


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="dp-risk",
        description="Risk models across data holders, with one honest epsilon.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"dp-risk {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (what, example) in _CONFIGURED.items():
        verb = verbs.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example:\n  dp-risk {name} {example}",
            formatter_class=raw,
        )
        verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
        verb.add_argument("-m", "--multirun", action="store_true", help="sweep, as Hydra's -m")
        verb.add_argument("-v", "--verbose", action="store_true", help="logs and tracebacks")
        verb.add_argument("--log-json", action="store_true", help="progress as JSON lines")
        if name == "plan":
            verb.add_argument("--units", type=int, help="public number of training units")
            verb.add_argument("--out", type=Path, default=Path("plan.json"), help="plan.json")
        verb.set_defaults(act=_configured)
    _paths(verbs)
    return parser


def _paths(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs that take paths and flags."""

    def add(
        under: argparse._SubParsersAction[argparse.ArgumentParser],
        name: str,
        what: str,
        example: str,
    ) -> argparse.ArgumentParser:
        verb = under.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example:\n  dp-risk {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument("-v", "--verbose", action="store_true", help="logs and tracebacks")
        return verb

    verb = add(verbs, "score", "scores with reasons for new rows", "score runs/mine new.csv")
    verb.add_argument("run", type=Path, metavar="RUN")
    verb.add_argument("file", type=Path, metavar="FILE", help="CSV or Parquet")
    verb.add_argument("--out", type=Path, help="Parquet file (default: FILE.scores.parquet)")
    verb.set_defaults(act=_score)

    verb = add(
        verbs,
        "report",
        "render a run's report again and sign it, or put runs side by side",
        "report runs/mine\n  dp-risk report runs/mine --audit runs/mine-audit\n"
        "  dp-risk report --compare runs/mine runs/other",
    )
    verb.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run's folder")
    verb.add_argument("--key", type=Path, help="signs the manifest (default: this user's key)")
    verb.add_argument("--audit", type=Path, metavar="AUDIT", help="put this audit into the report")
    verb.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="two to eight runs, frontiers or audits; the first is the reference",
    )
    verb.add_argument("--out", type=Path, help="new folder of the comparison (default: in runs/)")
    verb.set_defaults(act=_report)

    verb = add(
        verbs, "verify", "check what a run's folder says of itself, and who says it",
        "verify runs/mine --keys keys.txt",
    )  # fmt: skip
    verb.add_argument("run", type=Path, metavar="RUN")
    verb.add_argument("--keys", type=Path, help="trusted public keys, one in hexadecimal a line")
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(act=_verify)

    data = add(verbs, "data", "look at a source, draft a schema", "data schema mine.csv")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="WHAT")
    verb = add(kinds, "schema", "draft a schema: names and types only", "data schema mine.csv")
    verb.add_argument("file", type=Path, metavar="FILE", help="CSV or Parquet")
    verb.add_argument("--out", type=Path, help="YAML file (default: FILE's name + .schema.yaml)")
    verb.set_defaults(act=_data_schema)
    verb = add(
        kinds, "describe", "the names of the columns, nothing else", "data describe mine.csv"
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="CSV or Parquet")
    verb.set_defaults(act=_data_describe)
    verb = add(
        kinds,
        "partition",
        "deal the rows of one file out to sites: a Parquet file each",
        "data partition spambase --sites 3 --out shards",
    )
    shards.add_arguments(verb)

    site = add(
        verbs,
        "site",
        "a data holder's folder",
        "site init mysite --data mine.csv --schema mine.schema.yaml --delta 1e-5",
    )
    kinds = site.add_subparsers(dest="kind", required=True, metavar="WHAT")
    site_verbs.add_verbs(partial(add, kinds))

    federation = add(
        verbs,
        "federation",
        "a federation of many machines",
        "federation init fed --schema mine.schema.yaml --dataset mine --delta 1e-5",
    )
    kinds = federation.add_subparsers(dest="kind", required=True, metavar="WHAT")
    federation_verbs.add_verbs(partial(add, kinds))

    ledger = add(verbs, "ledger", "a site's ledger", "ledger show SITE")
    kinds = ledger.add_subparsers(dest="kind", required=True, metavar="WHAT")
    ledger_verbs.add_verbs(partial(add, kinds))


def _logging(*, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    for noisy in ("absl", "flwr", "opacus", "hydra"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _configured(options: argparse.Namespace) -> None:
    import warnings

    warnings.filterwarnings("ignore")
    from dp_risk.cli.compose import settings

    if options.multirun:
        from dp_risk.cli import search

        search.run(
            options.overrides,
            lambda asked, number: _one(options, asked, number),
            verb=options.verb,
        )
    else:
        _one(options, settings(options.overrides), None)


def _one(options: argparse.Namespace, settings: Settings, job: int | None) -> Path | None:
    """Do one job; return the run folder of a training run."""
    from dp_risk.cli import subgroups

    settings.tuning.refuse_private()
    subgroups.check(settings)
    if options.verb == "plan":
        # Neither Flower nor Opacus is read for a plan: that would take most of its time.
        from dp_risk.cli import plan, sizes

        units = options.units
        if units is None and settings.data.path is None:
            units = sizes.declared_units(settings)
        plan.show(settings, units, options.out)
        return None
    from dp_risk.cli import (
        artefacts,
        folders,
        forecast,
        frontier,
        manifest,
        simulate,
        summary,
        training,
    )
    from dp_risk.cli.audit import audit
    from dp_risk.cli.display import console, progress

    logging.getLogger("flwr").setLevel(logging.ERROR)
    _ = settings.simulated
    if options.verb == "frontier":
        settings.data.load_schema()
        folder = folders.run_folder(settings.run.dir, options.verb, job)
        with folders.removed_if_empty(folder):
            frontier.run(settings, folder, as_json=options.log_json)
        return None
    if options.verb == "audit":
        audit.check(settings)
        folder = folders.run_folder(settings.run.dir, options.verb, job)
        with folders.removed_if_empty(folder):
            audit.run(settings, folder, as_json=options.log_json)
        return None
    asked = settings.asked
    # Also where the sites hold a copy: a path that is not there is a mistake.
    _ = settings.data.file, settings.data.load_schema()
    screen = console()
    for line in forecast.check(settings):
        screen.print(line)
    place = simulate.federation_folder(settings)
    with simulate.locked(place):
        sites = simulate.make_sites(
            settings, place, lifetime_epsilon=settings.sites.lifetime_epsilon
        )
        folder = folders.run_folder(settings.run.dir, options.verb, job)
        with folders.removed_if_empty(folder):
            with progress("training", as_json=options.log_json) as step:
                record = training.run(
                    settings, folder, sites, step, memory=Path(settings.server.dir) / "heads.json"
                )
            artefacts.write_report(folder, html=settings.report.html)
            manifest.sign(folder)
    summary.show(screen, record, asked, folder)
    return folder


def _score(options: argparse.Namespace) -> None:
    from dp_risk.cli.score import score

    out = options.out or options.file.with_name(options.file.name + ".scores.parquet")
    rows = score(options.run, options.file, out)
    print(f"{rows} rows scored: {out}")


def _report(options: argparse.Namespace) -> None:
    from dp_risk.cli import artefacts, manifest
    from dp_risk.federation import files
    from dp_risk.privacy import keys

    if (options.run is None) == (options.compare is None):
        raise ConfigurationError("report: takes one RUN, or --compare RUN RUN ...")
    if options.out is not None and options.compare is None:
        raise ConfigurationError("report: --out goes with --compare only")
    if options.audit is not None and options.compare is not None:
        raise ConfigurationError("report: --audit goes into one RUN, not into a comparison")

    key = None if options.key is None else keys.load(options.key)
    if options.compare is not None:
        from dp_risk.cli.compare import compare

        compare(options.compare, options.out, key=key)
        return
    with files.held(options.run):
        # What a killed predecessor left.
        files.tidy(options.run)
        if options.audit is not None:
            facts = artefacts.attach(options.run, options.audit, key=key)
            said = facts["summary"]
            print(f"verdict: {said['verdict']}", *said["verdict_words"], sep="\n")
            print(f"written: {options.run / artefacts.PAGE}")
            _falsified(facts["audit"]["failed"])
            return
        manifest.check_unchanged(options.run, but=(artefacts.PAGE,))
        artefacts.check_files(options.run)
        artefacts.write_page(options.run)
        manifest.sign(options.run, key)
    print(f"written: {options.run / artefacts.PAGE}")


def _falsified(failed: Sequence[str]) -> None:
    """End with the exit code of a falsified claim if one is."""
    if failed:
        raise VerificationError(f"claim falsified: {', '.join(failed)}")


def _verify(options: argparse.Namespace) -> None:
    import json

    from dp_risk.cli.verify import verify

    found = verify(options.run, options.keys)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        for line in found.checked:
            print(line)
        for line in found.not_checked:
            print(f"not checked: {line}")
        for what, key in found.signers.items():
            print(f"signed: {what} by {key[:16]}")
    # The folder holds, and says that its claim does not.
    _falsified(found.falsified)


def _data_schema(options: argparse.Namespace) -> None:
    from dp_risk.data.source import schema_draft

    out = options.out or options.file.with_suffix(".schema.yaml")
    if out.exists():
        raise ConfigurationError(f"{out}: exists already; remove it or use --out")
    out.write_text(schema_draft(options.file))
    print(f"written: {out}; fill in bounds, values and the label before training")


def _data_describe(options: argparse.Namespace) -> None:
    from dp_risk.data.source import column_names

    print("\n".join(column_names(options.file)))
