"""A run's `report.json`, signed, and the page made from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dp_risk.audit.findings import FALSIFIED
from dp_risk.cli.folders import read_json
from dp_risk.cli.manifest import check_unchanged, sign, signing_key
from dp_risk.cli.training import load_model
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.federation.files import write
from dp_risk.models.additive import shapes
from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.report.facts.attach import attach as join
from dp_risk.report.facts.audit import build_audit
from dp_risk.report.facts.run import SCHEMA_VERSION as NEWEST
from dp_risk.report.facts.run import build
from dp_risk.report.facts.upgrade import upgrade
from dp_risk.report.page.render import render
from dp_risk.types import ConfigurationError, Refused, VerificationError
from server.provenance import commit, versions

REPORT, PAGE, AUDIT = "report.json", "report.html", "audit"
SIGNATURE, FILES = "signature", "files"
_SIGNED = (
    *("run.json", "plan.json", "rounds.jsonl", "model.json", "model.safetensors"),
    *("frontier.json", "audit.json", "config.yaml"),
)
_CONTEXT = "dp-risk report"


def facts(folder: Path) -> dict[str, Any]:
    """Return the facts of a run or a frontier, and of an audit in it, as its artefacts say them."""
    report = _run_facts(folder)
    return join(report, _report_of(folder / AUDIT)) if (folder / AUDIT).exists() else report


def _run_facts(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    frontier = None
    if (folder / "frontier.json").exists():
        frontier = read_json(folder / "frontier.json")
    about, weights = load_model(folder)
    explanation: list[dict[str, Any]] = []
    if about["model"] == "additive":
        coding = Coding(schema=Schema.from_dict(about["schema"]))
        explanation = shapes(weights, coding, float(about["options"]["value_scale"]))
    rounds = []
    if (folder / "rounds.jsonl").exists():
        rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    made = build(
        "frontier" if frontier else "run",
        record,
        frontier,
        explanation,
        (folder / "config.yaml").read_text(),
        [line for line in rounds if line["auprc"] is not None or line["epsilon_spent"] is not None],
    )
    return {**made, FILES: digests(folder)}


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a report's signer stands for, by name.

    Whoever only renders the page signs the manifest, and must not be able to swap the model.
    """
    names = (name for name in _SIGNED if (folder / name).is_file())
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def check_files(folder: Path) -> None:
    """Check that a report is still beside the files that its signer saw.

    Raises
    ------
    VerificationError
        If its signature does not hold, or a file is another one.
    """
    report = read_json(folder / REPORT, newest=NEWEST)
    if SIGNATURE not in report:
        return
    if signer(report) is None:
        raise VerificationError(f"{folder / REPORT}: its own signature does not hold")
    for name, digest in dict(report.get(FILES, {})).items():
        if digests(folder).get(name) != digest:
            raise VerificationError(f"{folder / name}: not the file that {REPORT} was signed with")


def audit_facts(
    folder: Path, made_with: Mapping[str, str], at_commit: str | None
) -> dict[str, Any]:
    """Return the facts of an audit, as its other artefacts say them.

    Parameters
    ----------
    folder : Path
        The audit's folder.
    made_with : mapping of str to str
        Versions of the packages that it was made with.
    at_commit : str or None
        Commit of the program that made it.
    """
    audit = read_json(folder / "audit.json")
    made = build_audit(audit, (folder / "config.yaml").read_text(), made_with, at_commit)
    return {**made, FILES: digests(folder)}


def write_report(folder: Path, *, html: bool, key: keys.Key | None = None) -> None:
    """Build `report.json` from a run's other artefacts, sign it, and render it.

    Parameters
    ----------
    folder : Path
        The run folder.
    html : bool
        Whether to render it.
    key : Key, optional
        Signs it; None is this user's.
    """
    write_facts(folder, facts(folder), html=html, key=key)


def write_audit_report(folder: Path, *, html: bool) -> None:
    """Build `report.json` from `audit.json`, sign it with this user's key, and render it."""
    report = audit_facts(folder, versions(), commit())
    write_facts(folder, report, html=html, key=None)


def write_facts(
    folder: Path, report: Mapping[str, Any], *, html: bool, key: keys.Key | None
) -> None:
    """Sign facts, with this user's key where none is given, write them, and render them."""
    text = json.dumps(_signed(report, key or signing_key()), indent=2) + "\n"
    write(folder / REPORT, text)
    if html:
        write_page(folder)


def attach(folder: Path, audit: Path, *, key: keys.Key | None) -> Mapping[str, Any]:
    """Copy an audit's folder into a run's and write the report of both; return its facts.

    Parameters
    ----------
    folder, audit : Path
        Of the run, and of the audit.
    key : Key, optional
        Signs the report and the manifest; None is this user's.

    Raises
    ------
    ConfigurationError
        If the audit is of something else.
    VerificationError
        If either folder was changed since it was signed.
    Refused
        If the folder holds an audit that falsified the run's claim: another one does not undo that.
    """
    # A copy that was killed half-way is made again.
    half = f"{AUDIT}/*"
    check_unchanged(folder, but=(REPORT, PAGE, half, f".{half}"))
    check_unchanged(audit)
    if (folder / REPORT).exists():
        check_files(folder)
    check_files(audit)
    if read_json(audit / REPORT, newest=NEWEST)["schema_version"] < NEWEST:
        raise ConfigurationError(f"--audit: {audit} is of an older version: audit again")
    if (folder / REPORT).exists() and _report_of(folder)["summary"]["verdict"] == FALSIFIED:
        raise Refused(
            f"{folder}: an audit falsified this run's claim, and another audit does not undo that: "
            "mend the trainer and train again"
        )
    join(_run_facts(folder), _report_of(audit))
    fresh = folder / f".{AUDIT}"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(audit, fresh)
    shutil.rmtree(folder / AUDIT, ignore_errors=True)
    fresh.rename(folder / AUDIT)
    write_report(folder, html=True, key=key)
    sign(folder, key)
    return _report_of(folder)


def _report_of(folder: Path) -> Mapping[str, Any]:
    return upgrade(read_json(folder / REPORT, newest=NEWEST))


def write_page(folder: Path) -> None:
    """Render `report.json` as it is on disk."""
    write(folder / PAGE, render(read_json(folder / REPORT, newest=NEWEST)))


def _signed(report: Mapping[str, Any], key: keys.Key) -> dict[str, Any]:
    body = {**report, SIGNATURE: {"public_key": keys.public_hex(key)}}
    signature = keys.sign(key, _CONTEXT, canonical(body))
    return {**report, SIGNATURE: {"public_key": keys.public_hex(key), "signature": signature}}


def signer(report: Mapping[str, Any]) -> str | None:
    """Return the public key that signed a report; None where the signature does not hold.

    Parameters
    ----------
    report : mapping
        `report.json` with its `signature`: over the rest and the public key.
    """
    said = dict(report[SIGNATURE])
    signature = str(said.pop("signature"))
    body = {**report, SIGNATURE: said}
    good = keys.verify(str(said["public_key"]), _CONTEXT, canonical(body), signature)
    return str(said["public_key"]) if good else None
